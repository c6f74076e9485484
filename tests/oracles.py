"""Losses against their definitions in NumPy, in float64, and one device against eight."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dinojax import mesh as meshes

Loss = Callable[..., Any]


def log_sum_exp(x: np.ndarray) -> float:
    """Of a vector."""
    peak = x.max()
    return peak + np.log(np.exp(x - peak).sum())


def central_differences(fn: Loss, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Gradient of a scalar function of one float64 array, element by element."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        gradient[index] = (fn(x + shift) - fn(x - shift)) / (2 * step)
    return gradient


@functools.cache  # one compilation for all tests with the same loss and shapes
def _gradient_of(loss: Loss) -> Loss:
    return jax.jit(jax.value_and_grad(loss))


def value_and_gradient(loss: Loss, *arrays: Any) -> tuple[Any, Any]:
    """The gradient is by the first array."""
    return _gradient_of(loss)(*(jnp.asarray(x) for x in arrays))


def check_loss(loss: Loss, oracle: Loss, *arrays: np.ndarray) -> None:
    """In float64, `loss` is `oracle` and its gradient the numerical one of `oracle`."""
    with jax.enable_x64(True):
        value, gradient = value_and_gradient(loss, *arrays)
    assert value.dtype == gradient.dtype == np.float64
    first, *others = arrays
    np.testing.assert_allclose(value, oracle(first, *others), rtol=1e-12)
    numerical = central_differences(lambda x: oracle(x, *others), first)
    assert np.abs(numerical).max() > 1e-4
    np.testing.assert_allclose(gradient, numerical, rtol=1e-6, atol=1e-8)


def split_batch(x: np.ndarray, axis: int) -> jax.Array:
    """On eight devices, `axis` over both batch axes of the mesh."""
    spec = PartitionSpec(*[None] * axis, meshes.BATCH_AXES)
    return jax.device_put(x, NamedSharding(meshes.make_mesh(data=2, fsdp=4), spec))


def compile_on_eight(fn: Callable[..., Any], *arrays: np.ndarray, axis: int) -> tuple[Any, str]:
    """Results with `axis` of every array over eight devices, and the compiled program's text."""
    split = [split_batch(x, axis) for x in arrays]
    program = jax.jit(fn).lower(*split).compile()
    return program(*split), program.as_text()


def round_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """`jnp.einsum` as on a TPU: float32 factors in one bfloat16 pass if no precision is named."""
    exact = jnp.einsum

    def einsum(subscripts: str, *factors: jax.Array, precision: Any = None) -> jax.Array:
        if precision is None:
            factors = tuple(jax.lax.reduce_precision(x, 8, 7) for x in factors)
        return exact(subscripts, *factors, precision=precision)

    monkeypatch.setattr(jnp, "einsum", einsum)
