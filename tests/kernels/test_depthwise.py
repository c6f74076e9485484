"""`depthwise_conv` against NumPy and against plain automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.kernels.depthwise import depthwise_conv

SHAPES = ((2, 5, 4, 3), (7, 7, 1, 3), (3,))


def operands(dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(jax.random.normal(k, s, dtype) for k, s in zip(keys, SHAPES, strict=True))


def plain(x, weight, bias):
    """A sum over shifts of the padded image."""
    padded = jnp.pad(x, [(0, 0), (3, 3), (3, 3), (0, 0)])
    height, width = x.shape[1:3]
    shifts = [
        padded[:, i : i + height, j : j + width] * weight[i, j, 0] for i, j in np.ndindex(7, 7)
    ]
    return sum(shifts) + bias


def test_values_and_gradients():
    with jax.enable_x64(True):
        given = operands(jnp.float64)
        weights = jnp.cos(jnp.arange(120.0)).reshape(SHAPES[0])

        def run(fn):
            def loss(given):
                out = fn(*given)
                return (jnp.sin(out) * weights).sum(), out

            return jax.jit(jax.grad(loss, has_aux=True))(given)

        found = run(lambda x, w, b: depthwise_conv(x, w, b, compute=jnp.float64))
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(run(plain)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_bf16_weight_gradients_are_summed_in_float32():
    """Of bf16 operands, as in `linear`: what is left is no more than their rounding."""
    x, weight, bias = operands(jnp.float32)
    x = jnp.tile(x, (64, 1, 1, 1)).astype(jnp.bfloat16)

    def grad(compute, x):
        def loss(weight):
            return depthwise_conv(x, weight, bias, compute=compute).astype(jnp.float32).sum()

        return jax.jit(jax.grad(loss))(weight)

    found, exact = grad(jnp.bfloat16, x), grad(jnp.float32, x.astype(jnp.float32))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-4 * np.abs(exact).max())
