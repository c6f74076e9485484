"""What DINOv2's state dicts call otherwise than DINOv3's: the same parameters, packed or numbered.

Its SwiGLU has one projection ``w12`` for gate and value, its blocks may be in chunks whose number
comes first, registers are ``register_tokens``, and the last layer of its heads is weight-normalised
under either of PyTorch's spellings.
"""

import re
from collections.abc import Mapping

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


def to_plain(state: Mapping[str, np.ndarray]) -> State:
    """A state dict of either system under DINOv3's names."""
    plain: State = {}
    for name, value in state.items():
        name = plain_name(name)
        if match := _PACKED.fullmatch(name):
            gate, value = np.split(np.asarray(value), 2)
            plain[f"{match[1]}w1{match[2]}"] = gate
            name = f"{match[1]}w2{match[2]}"
        plain[name] = value
    return plain


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
