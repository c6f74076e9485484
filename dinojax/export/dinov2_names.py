"""What DINOv2's state dicts call otherwise than DINOv3's: the same parameters, packed or numbered.

Its SwiGLU has one projection ``w12`` for gate and value, its blocks may be in chunks whose number
comes first, registers are ``register_tokens``, and the last layer of its heads is weight-normalised
under either of PyTorch's spellings.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

State = dict[str, np.ndarray]

_RENAMED = (
    (r"register_tokens", "storage_tokens"),
    (r"blocks\.\d+\.(\d+\..*)", r"blocks.\1"),
    (r"last_layer\.weight_v", "last_layer.weight"),
    (r"last_layer\.parametrizations\.weight\.original0", "last_layer.weight_g"),
    (r"last_layer\.parametrizations\.weight\.original1", "last_layer.weight"),
)
_PACKED = re.compile(r"(blocks\.\d+\.mlp\.)w12(\..*)")
_GATE = re.compile(r"(blocks\.\d+\.mlp\.)w1(\..*)")


def plain_name(name: str) -> str:
    """DINOv3's name for an entry of either system; packed entries keep theirs, ``w12``."""
    for pattern, plain in _RENAMED:
        if match := re.fullmatch(pattern, name):
            return match.expand(plain)
    return name


class Entry(NamedTuple):
    """Where a state dict has what DINOv3 calls by another name."""

    name: str
    half: int | None = None
    """Of a packed entry, along its first axis; None: all of it."""

    def of(self, value: np.ndarray) -> np.ndarray:
        """What is meant, of the entry's value."""
        return value if self.half is None else np.split(value, 2)[self.half]

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Of what is meant, of the entry's shape."""
        return whole if self.half is None else (whole[0] // 2, *whole[1:])


def plain_entries(names: Iterable[str]) -> dict[str, Entry]:
    """The entries of a state dict of either system by DINOv3's names.

    Raises:
        ValueError: two entries have one name there.
    """
    plain: dict[str, Entry] = {}
    for name in names:
        called = plain_name(name)
        if match := _PACKED.fullmatch(called):
            found = {f"{match[1]}w{half + 1}{match[2]}": Entry(name, half) for half in (0, 1)}
        else:
            found = {called: Entry(name)}
        for key, entry in found.items():
            if key in plain:
                raise ValueError(f"entries {plain[key].name!r} and {name!r} are both {key!r}")
            plain[key] = entry
    return plain


def official_name(name: str) -> str:
    """DINOv2's name for the entry of a backbone that DINOv3 calls `name`."""
    if match := re.fullmatch(r"(blocks\.\d+\.mlp\.)w[12](\..*)", name):
        return f"{match[1]}w12{match[2]}"
    return "register_tokens" if name == "storage_tokens" else name


def is_dinov2(state: Mapping[str, np.ndarray]) -> bool:
    """Whether a submodule is DINOv2's: learned positions, or a weight-normalised last layer."""
    return "pos_embed" in state or "last_layer.weight_g" in state


def to_dinov2(state: Mapping[str, np.ndarray]) -> State:
    """From DINOv3's names to those of a released DINOv2 file: registers, packed SwiGLU, gains."""
    renamed = {"storage_tokens": "register_tokens"}
    if "last_layer.weight_g" in state:
        renamed["last_layer.weight"] = "last_layer.weight_v"
    packed: State = {}
    for name, value in state.items():
        if match := _GATE.fullmatch(name):
            value = np.concatenate([value, state[f"{match[1]}w2{match[2]}"]])
            packed[f"{match[1]}w12{match[2]}"] = value
        elif not re.fullmatch(r"blocks\.\d+\.mlp\.w2\..*", name):
            packed[renamed.get(name, name)] = value
    return packed
