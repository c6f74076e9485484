"""The floor under a time: FLOPs over the measured peak, or bytes over the measured bandwidth.

    python benchmarks/floor.py --dtype=bfloat16

Both are measured on the default JAX device in the same process as what is compared with them.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
from jax.typing import DTypeLike

SIDES = (1024, 2048, 4096, 8192)
"""Of square matrices; the best of them is the peak."""
LONG_S = 0.1
"""A product that takes longer is the last one."""
TRIAD_BYTES = {"cpu": 2**27}
"""Of each array: well above what caches hold."""


class Work(NamedTuple):
    """What a computation cannot do without: operations, and bytes read and written once."""

    flops: float
    bytes: float


class Floor(NamedTuple):
    """What the device reaches, both per second."""

    flops: float
    bytes: float

    def seconds(self, work: Work) -> float:
        """No computation of so much work is faster."""
        return max(work.flops / self.flops, work.bytes / self.bytes)

    def figures(self, work: Work, seconds: float) -> dict[str, Any]:
        """Keys of a case's JSON line; `share_of_floor` is 1 where nothing could be faster."""
        least = self.seconds(work)
        return {
            "ms": seconds * 1e3,
            "flops_per_s": work.flops / seconds,
            "bytes_per_s": work.bytes / seconds,
            "floor_ms": least * 1e3,
            "bound": "flops" if least == work.flops / self.flops else "bytes",
            "share_of_floor": least / seconds,
        }


def seconds_of(call: Callable[[], Any]) -> float:
    """`measure.seconds_per_call` of a call that returns JAX arrays."""
    if jax.default_backend() == "cpu":  # which may run independent calls side by side
        return measure.seconds_per_call(lambda: jax.block_until_ready(call()), lambda _: None)
    return measure.seconds_per_call(call, jax.block_until_ready)


def measured_peak(dtype: DTypeLike) -> float:
    """FLOP/s of a large product in `dtype`; of float32 exact, as the policy of this name has it."""
    exact = jax.lax.Precision.HIGHEST if jnp.dtype(dtype).itemsize > 2 else None
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=exact))
    best = 0.0
    for side in SIDES:
        a, b = jax.random.normal(jax.random.key(0), (2, side, side), dtype)
        seconds = seconds_of(lambda a=a, b=b: product(a, b))
        best = max(best, 2 * side**3 / seconds)
        if seconds > LONG_S:
            break
    return best


def measured_bandwidth() -> float:
    """Bytes/s of ``a = a + s b`` in place: two arrays read and one written."""
    size = TRIAD_BYTES.get(jax.default_backend(), 2**29)
    triad = jax.jit(lambda a, b: a + 0.5 * b, donate_argnums=0)
    a, b = jnp.ones((2, size // 4), jnp.float32)

    def call() -> jax.Array:
        nonlocal a
        a = triad(a, b)
        return a

    return 3 * size / seconds_of(call)


def measured_floor(dtype: DTypeLike) -> Floor:
    return Floor(measured_peak(dtype), measured_bandwidth())


def size_of(tree: Any) -> int:
    """Bytes of all arrays, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_name() -> str:
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    floor = measured_floor(args.dtype)
    cases = measure.Cases("device", "dtype", "flops_per_s", "bytes_per_s")
    figures = {"flops_per_s": floor.flops, "bytes_per_s": floor.bytes}
    cases.add({"device": device_name(), "dtype": args.dtype, **figures})


if __name__ == "__main__":
    main()
