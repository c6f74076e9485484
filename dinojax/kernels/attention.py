"""Full bidirectional attention inside each image, with RoPE: one entry, and its backends."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jax.typing import DTypeLike

from dinojax.kernels import (
    attention_cudnn,
    attention_gpu,
    attention_reference,
    attention_tpu,
    gpu_choice,
)
from dinojax.kernels.on_device import gpu, per_device, platform, shape_on_one
from dinojax.kernels.rope import RopeTables
from dinojax.kernels.tiles_gpu import Hopper
from dinojax.typing import Array, Float

AUTO, REFERENCE = "auto", "reference"
Heads = Float[Array, "G b N H d"]


class Backend(NamedTuple):
    """One way to compute it.

    Attributes:
        attend: ``(q, k, v, rope) -> out``, differentiable by q, k and v.
        unsupported: ``(shape of q on one device, its dtype, the dtype of the tables)`` -> why not,
            or None.
    """

    attend: Callable[[Heads, Heads, Heads, RopeTables | None], Heads]
    unsupported: Callable[[Sequence[int], DTypeLike, DTypeLike | None], str | None]


def _flash(machine: Hopper) -> Backend:
    """The Pallas kernels for a GPU; interpreted on other devices."""

    def attend(q: Heads, k: Heads, v: Heads, rope: RopeTables | None) -> Heads:
        def on_one(*given):
            return attention_gpu.flash(*given, machine=machine, interpret=gpu() is None)

        return per_device(on_one, (q, k, v), rope)

    def unsupported(shape: Sequence[int], dtype: DTypeLike, _) -> str | None:
        found = gpu()
        capability = None if found is None else found.capability
        return attention_gpu.supports(tuple(shape), dtype, capability, machine)

    return Backend(attend, unsupported)


def _cudnn(q: Heads, k: Heads, v: Heads, rope: RopeTables | None) -> Heads:
    return per_device(attention_cudnn.cudnn, (q, k, v), rope)


def _no_cudnn(shape: Sequence[int], dtype: DTypeLike, _) -> str | None:
    found = gpu()
    if found is None:
        return "cuDNN needs a GPU"
    return attention_cudnn.supports(tuple(shape), dtype, found.capability)


BACKENDS = {
    REFERENCE: Backend(attention_reference.attend, lambda *_: None),
    "tpu": Backend(attention_tpu.attend, attention_tpu.unsupported),
    "cudnn": Backend(_cudnn, _no_cudnn),
    "flash": _flash(attention_gpu.HOPPER),
    "flash_mma": _flash(attention_gpu.AMPERE),
}


def attention(q: Heads, k: Heads, v: Heads, rope: RopeTables | None, backend: str = AUTO) -> Heads:
    """``softmax(rope(q) rope(k)^T / sqrt(d)) v`` of every image and head (arXiv:1706.03762, Eq. 1).

    Products in the dtype of the inputs, rotation, logits and softmax in at least float32. `rope`
    has one table for each group or one for all; None if positions are in the tokens already. A
    Pallas kernel of another kind of chip is interpreted, which is for tests.

    Raises:
        ValueError: an unknown backend, or one that does not compute these inputs.
    """
    if backend not in (AUTO, *BACKENDS):
        raise ValueError(f"attention_backend={backend!r} is unknown; use {[AUTO, *BACKENDS]}")
    inputs = (shape_on_one(q.shape), q.dtype, None if rope is None else rope.sin.dtype)
    if backend == AUTO:
        backend = choose(*inputs)
    elif reason := BACKENDS[backend].unsupported(*inputs):
        raise ValueError(f"attention_backend={backend!r} cannot do this: {reason}; use auto")
    return BACKENDS[backend].attend(q, k, v, rope)


def choose(shape: Sequence[int], dtype: DTypeLike, tables: DTypeLike | None) -> str:
    """The backend that "auto" means where each device has ``[G, b, N, H, d]`` of q.

    On a TPU its kernel, if that can; on a GPU what was measured to be the fastest
    (`dinojax.kernels.gpu_choice`).
    """
    if platform() == "tpu" and BACKENDS["tpu"].unsupported(shape, dtype, tables) is None:
        return "tpu"
    if found := gpu():
        return gpu_choice.choose(tuple(shape), dtype, found.kind, found.capability).backend
    return REFERENCE
