"""Which model a file is of, by the names and shapes of its entries alone."""

import re
from collections.abc import Mapping, Sequence

from dinojax.export.dinov2_names import plain_entries
from dinojax.export.incoming import fits_any
from dinojax.export.names import BUFFERS, entry_shapes
from dinojax.export.packed import Shape
from dinojax.export.weights import HF, TIMM, Weights
from dinojax.models.presets import PRESETS, Preset, backbone_shapes
from dinojax.precision import get_precision

Shapes = Mapping[str, Shape]
LOCAL_NORM = "local_cls_norm.*"
"""Of training alone, which the layouts of others leave out."""


def presets_of(
    weights: Weights, channels: int, missing: Sequence[str] = (), unexpected: Sequence[str] = ()
) -> list[str]:
    """Names of the presets whose backbones have just these entries.

    Args:
        missing: patterns of official names that the file may lack.
        unexpected: patterns of names that it may have too many.
    """
    plain = {
        name: shape for name, shape in _plain(weights).items() if not fits_any(unexpected, name)
    }
    absent = [*missing, *([LOCAL_NORM] if weights.layout in (HF, TIMM) else [])]

    def fits(preset: Preset) -> bool:
        wanted = _wanted(preset, channels)
        optional = {key for key in wanted if fits_any(absent, key)}
        if weights.zeros is not None:
            optional |= {key for key in wanted if re.fullmatch(weights.zeros, key)}
        return plain == {key: wanted[key] for key in wanted if key in plain or key not in optional}

    return [name for name, one in _of_width(plain).items() if fits(one)]


def nearest_preset(weights: Weights, channels: int) -> str | None:
    """The one that has most entries in common with a file; None: none has its width."""
    plain = _plain(weights)

    def common(preset: Preset) -> int:
        wanted = _wanted(preset, channels)
        return 2 * len(plain.items() & wanted.items()) - len(wanted)

    near = _of_width(plain)
    return max(near, key=lambda name: common(near[name]), default=None)


def describe(shapes: Shapes) -> str:
    """Of what size a model is, from a file's entries."""
    blocks = {match[0] for name in shapes if (match := re.match(r"(blocks|stages)\.\d+\.", name))}
    return f"width {_width(shapes)} and {len(blocks)} blocks"


def _plain(weights: Weights) -> dict[str, Shape]:
    """Shapes by DINOv3's names, without constants."""
    return {
        name: entry.shape(weights.shapes[entry.name])
        for name, entry in plain_entries(weights.shapes).items()
        if not BUFFERS.match(name) and weights.shapes[entry.name]
    }


def _wanted(preset: Preset, channels: int) -> dict[str, Shape]:
    return entry_shapes(backbone_shapes(preset.build(get_precision("float32")), channels))


def _of_width(shapes: Shapes) -> dict[str, Preset]:
    width = _width(shapes)
    return {name: one for name, one in PRESETS.items() if _preset_width(one) == width}


def _preset_width(preset: Preset) -> int:
    return preset.model["embed_dim"] if "embed_dim" in preset.model else preset.model["dims"][0]


def _width(shapes: Shapes) -> int | None:
    for stem in ("patch_embed.proj.weight", "downsample_layers.0.0.weight"):
        if shapes.get(stem):
            return shapes[stem][0]
    return None
