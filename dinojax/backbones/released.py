"""Backbones in files that other code has written, or ``dinojax.export_torch``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dinojax.backbones.beside import check_config, image_format, image_format_of
from dinojax.backbones.names import Release, find_release, is_released_name
from dinojax.backbones.opened import ImageFormat, Opened, fingerprint_of_params
from dinojax.backbones.sniff import describe, nearest_preset, presets_of
from dinojax.backbones.untrained import initial_leaf
from dinojax.export.buffers import PERIODS, rope_buffer
from dinojax.export.incoming import Fill, Incoming
from dinojax.export.official_weights import MASK
from dinojax.export.weights import HF, TIMM, Weights, open_weights
from dinojax.models.presets import PRESETS, Backbone, backbone_shapes, configured, get_preset
from dinojax.models.vit import VisionTransformer
from dinojax.precision import Precision, get_precision
from dinojax.typing import Params

UNTIED = "untie_global_and_local_cls_norm"
METADATA = ("arch", "student", "step", "checkpoint_fingerprint", "data_fingerprint", "recipe")
"""What `dinojax.export_torch` writes about a file's weights beside their layout."""
FINGERPRINT = "checkpoint_fingerprint"
UNUSED = ("mask_token", "local_cls_norm.*")
"""Patterns of parameters that only training has a use for: no frozen feature depends on them."""


@dataclass(frozen=True)
class Released(Opened):
    """A file of weights and the model that they are of.

    Attributes:
        missing: names, or patterns of them, that the file may lack; they are initialised.
        unexpected: likewise entries that it may have too many.
    """

    path: str
    preset: str
    missing: Sequence[str] = UNUSED
    unexpected: Sequence[str] = ()
    allow_pth: bool = False

    @property
    def arch(self) -> str:
        return self.preset

    @cached_property
    def weights(self) -> Weights:
        return open_weights(self.path, allow_pth=self.allow_pth)

    @cached_property
    def origin(self) -> dict[str, str]:
        said = self.weights.file.metadata
        return {key: said[key] for key in METADATA if key in said}

    def incoming(self) -> Incoming:
        """The file's entries beside what the model needs. Raises: as `read`, but for damage."""
        shapes = backbone_shapes(_module(self), self.images.channels)
        try:
            return Incoming(self.weights, shapes)
        except ValueError as error:
            raise self._refused(error) from error

    def read(self, mesh: Mesh) -> Params:
        incoming, backbone = self.incoming(), _module(self)
        fill = initial_leaf(backbone, self.images.channels)
        try:
            incoming.check(self.missing, self.unexpected)
            return read_checked(incoming, backbone, self.layout(mesh), fill)
        except ValueError as error:
            raise self._refused(error) from error

    def _refused(self, error: ValueError) -> ValueError:
        return ValueError(f"{self.path} does not hold a {self.preset}: {error}")


def open_released(
    path: str,
    model: str | None = None,
    precision: Precision | None = None,
    *,
    missing: Sequence[str] = UNUSED,
    unexpected: Sequence[str] = (),
    allow_pth: bool = False,
) -> Released:
    """A file's backbone.

    Args:
        model: the name of a released model or of a preset. None: what the file says of itself, if
            `dinojax.export_torch` wrote it, or the preset that has just these entries.
        precision: None: float32.
        missing, unexpected: as for `Released`.
        allow_pth: as for `open_weights`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or of no model that is known.
    """
    precision = precision or get_precision("float32")
    weights = open_weights(path, allow_pth=allow_pth)
    options = {"missing": missing, "unexpected": unexpected, "allow_pth": allow_pth}
    images = image_format_of(weights)
    if model is None and "recipe" in weights.file.metadata:  # whatever our file is called
        backbone, arch, images = _of_recipe(weights, precision)
        return Released(path, backbone, path, arch, images=images, **options)
    if model is not None:
        release = _named(model)
    elif is_released_name(PurePath(path).name):
        release = find_release(path)
    else:
        release = _sniffed(weights, missing, unexpected)
    changes = dict(release.changes)
    preset = get_preset(release.preset)
    untied = {**preset.model, **changes}.get(UNTIED)
    if untied and weights.layout in (HF, TIMM) and "local_cls_norm.weight" not in weights:
        changes[UNTIED] = False  # they leave out the norm of local crops, which only training has
    backbone = preset.build(precision, **changes)
    images = images or release.images
    return Released(path, backbone, path, release.preset, images=images, **options)


def read_checked(
    incoming: Incoming, backbone: Backbone, wanted: Params, fill: Fill | None = None
) -> Params:
    """The parameters on the shardings and in the dtypes of `wanted`; what can be proven, is.

    RoPE's periods, and the fingerprint that a file of `dinojax.export_torch` carries: a transposed
    square matrix has the right shape, and shows only there.

    Raises:
        ValueError: the file has other periods or another fingerprint.
    """
    _check_constants(incoming.weights, backbone)
    check_config(incoming.weights, backbone)
    params = incoming.place(wanted, fill)
    expected = incoming.weights.file.metadata.get(FINGERPRINT)
    if expected is not None and not incoming.missing and backbone.precision.param == np.float32:
        found = fingerprint_of_params(params)
        if found != expected:
            raise ValueError(
                f"its parameters have the fingerprint {found}, and its metadata says {expected}: "
                "values have changed since it was written; export or copy it again"
            )
    return params


def _module(opened: Released) -> Backbone:
    assert isinstance(opened.backbone, Backbone)
    return opened.backbone


def _check_constants(weights: Weights, backbone: Backbone) -> None:
    """Released files have RoPE's periods rounded to bfloat16; others are of another model."""
    if not isinstance(backbone, VisionTransformer):
        return
    if not backbone.mask_k_bias and any(name.endswith(MASK) for name in weights):
        raise ValueError("the bias of its keys is masked, and the model's is not; set mask_k_bias")
    if PERIODS not in weights:
        return
    if backbone.pos_embed_grid is not None:
        raise ValueError(f"it has {PERIODS!r}, and the model learns its positions")
    found, expected = weights[PERIODS], rope_buffer(backbone)
    near = found.shape == expected.shape and np.allclose(found, expected, rtol=2**-8)
    if not near:
        raise ValueError(
            f"{PERIODS!r} are {_few(found)} and the model's {_few(expected)}; set its "
            "pos_embed_rope_base or periods to those of the file"
        )


def _few(values: np.ndarray) -> str:
    return str([round(float(value), 4) for value in values.reshape(-1)[:3]])[:-1] + ", ..]"


def _named(model: str) -> Release:
    return Release(model, model) if model in PRESETS else find_release(model)


def _of_recipe(weights: Weights, precision: Precision) -> tuple[Backbone, str, ImageFormat]:
    """A file of ours names every setting that its model depends on."""
    said = weights.file.metadata
    try:
        recipe: dict[str, Any] = json.loads(said["recipe"])
        keys = {
            key.removeprefix("student."): recipe[key]
            for key in recipe
            if key.startswith("student.")
        }
        mean, std = (tuple(recipe[f"crops.rgb_{name}"]) for name in ("mean", "std"))
        images = image_format(mean, std, int(said.get("image_px", ImageFormat().image_px)))
        backbone = configured(keys, precision)
        backbone_shapes(backbone, images.channels)
    except Exception as error:  # whatever a model makes of what is no number
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{weights.where}: its metadata describes no model ({type(error).__name__}: {reason}); "
            "say which it is, as FILE#vits16"
        ) from error
    return backbone, str(keys["arch"]), images


def _sniffed(weights: Weights, missing: Sequence[str], unexpected: Sequence[str]) -> Release:
    """Of what nearly is a preset, that one: reading it says what differs."""
    path, fitting = weights.where, presets_of(weights, 3, missing, unexpected)
    if len(fitting) > 1:
        raise ValueError(
            f"{path} could be {' or '.join(fitting)}; say which, as {path}#{fitting[0]}"
        )
    if fitting:
        return Release(fitting[0], fitting[0])
    near = nearest_preset(weights, 3)
    if near is None:
        raise ValueError(
            f"{path} has {describe(weights.shapes)}, as no preset; use a file of a DINOv2 or "
            f"DINOv3 backbone, or say which model it is, as {path}#vits16"
        )
    return Release(near, near)
