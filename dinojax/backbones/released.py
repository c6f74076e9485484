"""Backbones in ``.safetensors`` files under the names of the official code or of Hugging Face."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

import jax
import numpy as np
from jax.sharding import Mesh

from dinojax.backbones.names import Release, find_release, is_released_name
from dinojax.backbones.opened import ImageFormat, Opened
from dinojax.export.dinov2_names import plain_entries
from dinojax.export.hf_names import HfWeights, is_hf
from dinojax.export.names import BUFFERS, entry_shapes, from_torch
from dinojax.export.tensor_file import SUFFIX, TensorFile
from dinojax.models.presets import (
    PRESETS,
    Preset,
    backbone_shapes,
    configured,
    get_preset,
)
from dinojax.precision import Precision, get_precision
from dinojax.typing import Params

Shapes = Mapping[str, tuple[int, ...]]
FOLDER_FILE = "model.safetensors"
"""In a folder that `transformers` has saved."""
PICKLES = (".pth", ".pt", ".bin")
UNTIED = "untie_global_and_local_cls_norm"
METADATA = ("arch", "student", "step", "checkpoint_fingerprint", "data_fingerprint", "recipe")
"""What `dinojax.export_torch` writes about a file's weights beside their layout."""


@dataclass(frozen=True)
class Released(Opened):
    """A file of weights and the model that they are of."""

    path: str
    preset: str

    @property
    def arch(self) -> str:
        return self.preset

    @cached_property
    def origin(self) -> dict[str, str]:
        file = open_weights(self.path)
        said = file.metadata if isinstance(file, TensorFile) else {}
        return {key: said[key] for key in METADATA if key in said}

    def read(self, mesh: Mesh) -> Params:
        wanted = self.layout(mesh)
        try:
            return place(from_torch(open_weights(self.path), wanted), wanted)
        except ValueError as error:
            raise ValueError(f"{self.path} does not hold a {self.preset}: {error}") from error


def open_released(
    path: str, model: str | None = None, precision: Precision | None = None
) -> Released:
    """A file's backbone.

    Args:
        model: the name of a released model or of a preset. None: what the file says of itself, if
            `dinojax.export_torch` wrote it, or the preset that has just these entries.
        precision: None: float32.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or of no model that is known.
    """
    file, precision = open_weights(path), precision or get_precision("float32")
    release = None if model is None else _named(model)
    if release is None and is_released_name(PurePath(path).name):
        release = find_release(path)
    if release is None and isinstance(file, TensorFile) and "recipe" in file.metadata:
        return _of_recipe(path, file.metadata, precision)
    if release is None:
        release = _sniffed(path, file.shapes)
    changes = dict(release.changes)
    if isinstance(file, HfWeights) and {**get_preset(release.preset).model, **changes}.get(UNTIED):
        changes[UNTIED] = False  # they leave out the norm of local crops, which only training has
    backbone = get_preset(release.preset).build(precision, **changes)
    return Released(path, backbone, path, release.preset, images=release.images)


def is_weights(path: str) -> bool:
    """Whether a path names a file of weights or a Hugging Face folder, not a run."""
    ends = path.endswith((SUFFIX, *PICKLES))
    return ends or os.path.isfile(os.path.join(path, FOLDER_FILE))


def open_weights(path: str) -> TensorFile | HfWeights:
    """A file's entries, under the official names also if they are Hugging Face's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole file of this kind.
    """
    if path.endswith(PICKLES):
        raise ValueError(
            f"{path}: files of PyTorch can hold code, so they are not read; convert it with "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW) to a file "
            f"that ends in {SUFFIX}"
        )
    file = TensorFile(os.path.join(path, FOLDER_FILE) if os.path.isdir(path) else path)
    return HfWeights(file) if is_hf(file.shapes) else file


def _named(model: str) -> Release:
    return Release(model, model) if model in PRESETS else find_release(model)


def _of_recipe(path: str, said: Mapping[str, str], precision: Precision) -> Released:
    """A file of ours names every setting that its model depends on."""
    recipe = json.loads(said["recipe"])
    keys = {
        key.removeprefix("student."): recipe[key] for key in recipe if key.startswith("student.")
    }
    mean, std = (tuple(recipe[f"crops.rgb_{name}"]) for name in ("mean", "std"))
    images = ImageFormat(mean, std, int(said.get("image_px", ImageFormat().image_px)))
    return Released(path, configured(keys, precision), path, keys["arch"], images=images)


def _sniffed(path: str, shapes: Shapes) -> Release:
    fitting = presets_of(shapes, 3)
    if not fitting:
        raise ValueError(
            f"{path} has {describe(shapes)}, as no preset; use a file under the names of the "
            "official DINOv2 or DINOv3 code"
        )
    if len(fitting) > 1:
        raise ValueError(
            f"{path} could be {' or '.join(fitting)}; say which, as {path}#{fitting[0]}"
        )
    return Release(fitting[0], fitting[0])


def place(found: Params, wanted: Params) -> Params:
    """Arrays of the host on the shardings and in the dtypes of `wanted`."""

    def one(value: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
        whole = value.astype(like.dtype, copy=False)
        # Every process has read all of it, and hands its devices their parts.
        return jax.make_array_from_callback(like.shape, like.sharding, lambda part: whole[part])

    return jax.tree.map(one, found, wanted)


def presets_of(shapes: Shapes, channels: int) -> list[str]:
    """Names of the presets whose backbones have just these entries, by either system's names."""
    plain = {
        name: entry.shape(shapes[entry.name])
        for name, entry in plain_entries(shapes).items()
        if not BUFFERS.match(name)
    }
    width = _width(plain)
    near = {name: one for name, one in PRESETS.items() if _preset_width(one) == width}
    return [name for name, one in near.items() if _preset_shapes(one, channels) == plain]


def _preset_width(preset: Preset) -> int:
    return preset.model["embed_dim"] if "embed_dim" in preset.model else preset.model["dims"][0]


def _preset_shapes(preset: Preset, channels: int) -> dict[str, tuple[int, ...]]:
    return entry_shapes(backbone_shapes(preset.build(get_precision("float32")), channels))


def _width(shapes: Shapes) -> int | None:
    for stem in ("patch_embed.proj.weight", "downsample_layers.0.0.weight"):
        if stem in shapes:
            return shapes[stem][0]
    return None


def describe(shapes: Shapes) -> str:
    """Of what size a model is, from a file's entries."""
    blocks = {match[0] for name in shapes if (match := re.match(r"(blocks|stages)\.\d+\.", name))}
    return f"width {_width(shapes)} and {len(blocks)} blocks"
