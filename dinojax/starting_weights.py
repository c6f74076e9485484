"""Weights that a run starts from: a checkpoint, a snapshot of a backbone, or a released file.

A released backbone is a ``.safetensors`` file under the names of the official DINOv2 or DINOv3
repositories (`dinojax.export.names`). It has no heads, and neither has a snapshot.
"""

import hashlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.config import Config
from dinojax.earlier import Earlier
from dinojax.export.dinov2_names import plain_entries
from dinojax.export.names import BUFFERS, entry_shapes, from_torch
from dinojax.export.tensor_file import SUFFIX, TensorFile
from dinojax.models.presets import PRESETS, Preset
from dinojax.precision import get_precision
from dinojax.runtime.errors import CheckpointError
from dinojax.runtime.stored_state import fingerprint, read_digests
from dinojax.typing import Params

KEY = "init.from"
Shapes = dict[str, tuple[int, ...]]


def is_released(given: str) -> bool:
    """Whether a key names a file of weights, not a run or one of its checkpoints."""
    return given.endswith(SUFFIX)


def has_heads(earlier: Earlier) -> bool:
    """Whether a checkpoint holds more of its teacher than the backbone.

    Raises:
        dinojax.runtime.errors.CheckpointError: damaged, or not there.
    """
    heads = f"{earlier.prefix}teacher/dino_head/"
    return any(name.startswith(heads) for name in read_digests(earlier.path))


def read_released(path: str, config: Config, wanted: Params) -> Params:
    """The backbone of a released file, on the shardings and in the dtypes of `wanted`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or of another model; names the entries, and presets that would fit.
    """
    file, arch = TensorFile(path), config.student.arch
    try:
        found = from_torch(file, wanted)
    except ValueError as error:
        fitting = presets_of(file.shapes, config.student.in_chans)
        fix = (
            f"its entries are those of student.arch={' or '.join(map(repr, fitting))}"
            if fitting
            else f"it has {_size(file.shapes)}, as no preset; set student.* to its model"
        )
        raise ValueError(
            f"init.from={path!r} does not hold this run's backbone (student.arch={arch!r} and its "
            f"overrides): {error}; {fix}"
        ) from error

    def place(value: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
        whole = value.astype(like.dtype, copy=False)
        # Every process has read all of it, and hands its devices their parts.
        return jax.make_array_from_callback(like.shape, like.sharding, lambda part: whole[part])

    return jax.tree.map(place, found, wanted)


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


def _preset_shapes(preset: Preset, channels: int) -> Shapes:
    backbone = preset.build(get_precision("float32"))
    image = jnp.zeros((1, 1, backbone.stride, backbone.stride, channels))
    return entry_shapes(jax.eval_shape(backbone.init, jax.random.key(0), image)["params"])


def _width(shapes: Shapes) -> int | None:
    for stem in ("patch_embed.proj.weight", "downsample_layers.0.0.weight"):
        if stem in shapes:
            return shapes[stem][0]
    return None


def _size(shapes: Shapes) -> str:
    blocks = {match[0] for name in shapes if (match := re.match(r"(blocks|stages)\.\d+\.", name))}
    return f"width {_width(shapes)} and {len(blocks)} blocks"


def start_digest(config: Config) -> dict[str, str | None]:
    """16 hex digits of what init.from names, by this key, for the run's contract.

    If that is one thing: a file, or one checkpoint. The newest checkpoint of a workdir may be
    another one tomorrow. None: not there any more, which a run that has begun does not mind.
    """
    given = config.init.from_
    try:
        if given is None:
            return {}
        if is_released(given):
            with open(given, "rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))
            return {KEY: digest.hexdigest()}
        return {KEY: fingerprint(given)} if Path(given).name.isdigit() else {}
    except (FileNotFoundError, CheckpointError):
        return {KEY: None}
