"""Full bidirectional attention inside each image, with RoPE: one entry, and its backends."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jax.typing import DTypeLike

from dinojax.kernels import attention_reference, attention_tpu
from dinojax.kernels.on_device import platform
from dinojax.kernels.rope import RopeTables
from dinojax.typing import Array, Float

Heads = Float[Array, "G b N H d"]


class Backend(NamedTuple):
    """One way to compute it.

    Attributes:
        attend: ``(q, k, v, rope) -> out``, differentiable by q, k and v.
        unsupported: ``(shape of q, its dtype, that of the tables) -> why not``, or None.
    """

    attend: Callable[[Heads, Heads, Heads, RopeTables | None], Heads]
    unsupported: Callable[[Sequence[int], DTypeLike, DTypeLike | None], str | None]


BACKENDS = {
    "reference": Backend(attention_reference.attend, lambda *_: None),
    "tpu": Backend(attention_tpu.attend, attention_tpu.unsupported),
}
AUTO = "auto"
PREFERRED = {"tpu": ("tpu", "reference"), "gpu": ("reference",), "cpu": ("reference",)}
"""Platform -> backends in the order of preference."""


def attention(q: Heads, k: Heads, v: Heads, rope: RopeTables | None, backend: str = AUTO) -> Heads:
    """``softmax(rope(q) rope(k)^T / sqrt(d)) v`` of every image and head (arXiv:1706.03762, Eq. 1).

    Products in the dtype of the inputs, rotation, logits and softmax in at least float32. `rope`
    has one table for each group or one for all; None if positions are in the tokens already.
    "auto" takes the first backend of `PREFERRED` that can; another platform's Pallas kernel is
    interpreted, which is for tests.

    Raises:
        ValueError: an unknown backend, or one that does not compute these inputs.
    """
    check_backend(backend)
    inputs = (q.shape, q.dtype, None if rope is None else rope.sin.dtype)
    if backend == AUTO:
        backend = choose(*inputs)
    elif reason := BACKENDS[backend].unsupported(*inputs):
        raise ValueError(f"attention_backend={backend!r} cannot do this: {reason}; use auto")
    return BACKENDS[backend].attend(q, k, v, rope)


def check_backend(name: str) -> None:
    """Raises ValueError: there is none of this name."""
    if name not in (AUTO, *BACKENDS):
        raise ValueError(f"attention_backend={name!r} is unknown; use {[AUTO, *BACKENDS]}")


def choose(shape: Sequence[int], dtype: DTypeLike, tables: DTypeLike | None) -> str:
    """The backend that "auto" means for q of this ``[G, b, N, H, d]``."""
    return next(
        name
        for name in PREFERRED.get(platform(), ("reference",))
        if BACKENDS[name].unsupported(shape, dtype, tables) is None
    )
