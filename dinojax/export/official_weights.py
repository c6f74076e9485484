"""Files under the names of the official repositories, as released or as their training saves them.

Prefixes of a training's dump are taken off, and the chunk's number out of the names of blocks. The
bias of q, k and v is multiplied by its mask, which is zero everywhere in released files: their
computation does so.
"""

from collections.abc import Mapping

from dinojax.export.dinov2_names import plain_name
from dinojax.export.packed import File, Packed, Repacked, Shape

PREFIXES = ("module.", "backbone.")
MASK = ".bias_mask"


class OfficialWeights(Repacked):
    """Raises ValueError: two entries that mean the same."""

    def __init__(self, file: File):
        super().__init__(file, _pack(file.shapes), {})


def _pack(shapes: Mapping[str, Shape]) -> dict[str, Packed]:
    found: dict[str, Packed] = {}
    for given, shape in shapes.items():
        name = given
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        name = name if "last_layer" in name else plain_name(name)
        if name in found:
            raise ValueError(f"entries {found[name].parts[0]!r} and {given!r} are both {name!r}")
        found[name] = Packed((given,), shape)
    for name, one in found.items():
        mask = found.get(name + "_mask") if name.endswith("attn.qkv.bias") else None
        if mask is not None:
            found[name] = one._replace(mask=str(mask.parts[0]))
    return found
