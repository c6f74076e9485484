"""The official state dict with q, k and v apart, as other libraries keep them, and back.

What a library has no place for (`Outgoing.kept`) travels in the file's header, so that the way out
and in again is a bijection; whoever reads only the tensors does not see it.
"""

import base64
import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np

from dinojax.export.dinov2_names import plain_name
from dinojax.export.packed import File, Kept, Packed, Repacked, State

KEPT = "kept"
"""The key of the header under which the rest is."""
QKV = re.compile(r"(blocks\.\d+\.attn\.)qkv\.(weight|bias)")
_PART = re.compile(r"(blocks\.\d+\.attn\.)([qkv])\.(weight|bias)")
_KEPT_DTYPES = {"float32": np.float32, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16}


class Outgoing(NamedTuple):
    """A state dict under another library's names, and what that has no place for."""

    tensors: State
    kept: State
    """By official names, q, k and v apart."""

    def header(self) -> dict[str, str]:
        """`kept` as an entry of a file's metadata; none if there is nothing."""
        if not self.kept:
            return {}
        told = {
            name: [value.dtype.name, list(value.shape), base64.b64encode(value.tobytes()).decode()]
            for name, value in self.kept.items()
        }
        return {KEPT: json.dumps(told)}


def loosen(state: Mapping[str, np.ndarray], leaves: Collection[str] = ("weight", "bias")) -> State:
    """An official state dict under DINOv3's names, DINOv2's gates packed.

    Args:
        leaves: of q, k and v, which are to be apart.
    """
    loose: State = {}
    for name, value in state.items():
        match = QKV.fullmatch(name)
        if match and match[2] in leaves:
            for part, rows in zip("qkv", np.split(value, 3), strict=True):
                loose[f"{match[1]}{part}.{match[2]}"] = rows
        else:
            loose[plain_name(name)] = value
    return loose


class Renamed(Repacked):
    """The entries of another library's file under the official names, read when asked for.

    Args:
        file: its state dict.
        rename: their name for a loose official one; unknown names as they are, so that whoever
            misses or has too much of something can say so by the name that it has.
        adapt: of the entries so far, what else is to change.

    Raises:
        ValueError: two entries that mean the same, or a header that cannot be read.
    """

    def __init__(
        self,
        file: File,
        rename: Callable[[str], str],
        adapt: Callable[[dict[str, Packed], Mapping[str, np.ndarray]], dict[str, Packed]],
    ):
        kept = read_kept(getattr(file, "metadata", {}))
        loose: dict[str, Packed] = {}
        for name, shape in file.shapes.items():
            official = rename(name)
            if official in loose:
                first = loose[official].parts[0]
                raise ValueError(f"entries {first!r} and {name!r} are both {official!r}")
            loose[official] = Packed((name,), shape)
        for name, value in kept.items():
            loose.setdefault(name, Packed((Kept(name),), value.shape))
        super().__init__(file, adapt(fuse(loose), kept), kept)


def fuse(loose: Mapping[str, Packed]) -> dict[str, Packed]:
    """q, k and v of loose entries side by side. Biases of keys that no layer has are zero.

    Incomplete ones stay apart, under the names of the file: what they would make up is missing.

    Raises:
        ValueError: parts of different shapes.
    """
    fused: dict[str, Packed] = {}
    groups: dict[str, dict[str, Packed]] = {}
    for name, one in loose.items():
        if match := _PART.fullmatch(name):
            groups.setdefault(f"{match[1]}qkv.{match[3]}", {})[match[2]] = one
        else:
            fused[name] = one
    biased = any(
        isinstance(found["k"].parts[0], str)
        for name, found in groups.items()
        if name.endswith("bias") and "k" in found
    )
    for name, found in groups.items():
        needed = {"q", "v"} if name.endswith("bias") and not biased else {*"qkv"}
        if not needed <= found.keys() or name in fused:
            fused |= {str(one.parts[0]): one for one in found.values()}
            continue
        if len({one.shape for one in found.values()}) > 1:
            shapes = {one.parts[0]: list(one.shape) for one in found.values()}
            raise ValueError(f"the parts of {name!r} have different shapes: {shapes}")
        rows, *rest = found["q"].shape or (1,)
        parts = tuple(found[part].parts[0] if part in found else (rows, *rest) for part in "qkv")
        fused[name] = Packed(parts, (3 * rows, *rest))
    return fused


def with_gates(found: Mapping[str, Packed]) -> dict[str, Packed]:
    """The FFN of two matrices is a gated one where there is a gate, or the first has both in it."""
    renamed: dict[str, Packed] = {}
    for name, one in found.items():
        match = re.fullmatch(r"(blocks\.\d+\.mlp\.)(fc[12])(\..*)", name)
        if match:
            first, second = (found.get(f"{match[1]}{part}.weight") for part in ("fc1", "fc2"))
            if f"{match[1]}w1.weight" in found:
                name = match[1] + {"fc1": "w2", "fc2": "w3"}[match[2]] + match[3]
            elif first and second and first.shape[:1] == tuple(2 * n for n in second.shape[1:]):
                name = match[1] + {"fc1": "w12", "fc2": "w3"}[match[2]] + match[3]
        renamed[name] = one
    return renamed


def read_kept(metadata: Mapping[str, str]) -> State:
    """What a file's header holds beside its tensors.

    Raises:
        ValueError: it cannot be read; names the entry.
    """
    if KEPT not in metadata:
        return {}
    name = ""
    try:
        found: State = {}
        for name, (dtype, shape, text) in json.loads(metadata[KEPT]).items():
            data = base64.b64decode(text, validate=True)
            value = np.frombuffer(data, _KEPT_DTYPES[dtype])
            if any(side < 0 for side in shape) or value.size != math.prod(shape):
                raise ValueError(f"{value.size} values for shape {shape}")
            found[str(name)] = value.reshape(shape)
        return found
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"the header's entry {KEPT!r} is damaged at {name!r} ({type(error).__name__}: "
            f"{error}); export the file again"
        ) from error
