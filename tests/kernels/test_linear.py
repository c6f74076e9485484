"""`linear` and `linears` against NumPy and against plain automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.kernels.linear import linear, linears, spread


def operands(outputs=(5,), dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((2, 3, 7), (7, *outputs), outputs)
    return tuple(jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))


def plain(x, weight, bias, dtype):
    return jnp.tensordot(x.astype(dtype), weight.astype(dtype), 1) + bias.astype(dtype)


@pytest.mark.parametrize("outputs", [(5,), (3, 2, 4)])
def test_equals_numpy(outputs):
    with jax.enable_x64(True):
        x, weight, bias = operands(outputs, jnp.float64)
        product = np.tensordot(np.asarray(x), np.asarray(weight), 1)
        out = linear(x, weight, bias, compute=jnp.float64)
        assert out.dtype == jnp.float64
        np.testing.assert_allclose(out, product + np.asarray(bias), rtol=1e-13, atol=1e-13)
        without = linear(x, weight, compute=jnp.float64)
        np.testing.assert_allclose(without, product, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("outputs", [(5,), (3, 2, 4)])
def test_gradients_equal_plain_autodiff(outputs):
    with jax.enable_x64(True):
        args = operands(outputs, jnp.float64)
        weights = jnp.cos(jnp.arange(6.0 * np.prod(outputs))).reshape(2, 3, *outputs)

        def grads(fn):
            return jax.grad(lambda args: (jnp.sin(fn(*args)) * weights).sum())(args)

        ours = grads(lambda *args: linear(*args, compute=jnp.float64))
        expected = grads(lambda *args: plain(*args, jnp.float64))
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_bf16_compute_keeps_float32_weight_gradients():
    args = operands()

    def loss(args):
        out = linear(*args, compute=jnp.bfloat16)
        assert out.dtype == jnp.bfloat16
        return out.astype(jnp.float32).sum()

    grad_x, grad_weight, grad_bias = jax.grad(loss)(args)
    assert {g.dtype for g in (grad_x, grad_weight, grad_bias)} == {jnp.dtype(jnp.float32)}
    # Cotangents of 1: sums of bf16 inputs, which a result rounded to bf16 would miss.
    x = np.asarray(args[0].astype(jnp.bfloat16).astype(jnp.float32)).reshape(-1, 7)
    expected = np.broadcast_to(x.sum(axis=0)[:, None], grad_weight.shape)
    np.testing.assert_allclose(grad_weight, expected, rtol=1e-6, atol=1e-6)
    rounded = expected.astype(jnp.bfloat16).astype(np.float32)
    assert np.abs(rounded - expected).max() > 1e-4


def test_bf16_bias_gradient_is_summed_in_float32():
    rows = 1000  # a bf16 sum of ones stops at 256
    bias = jnp.zeros(3)
    grad = jax.grad(
        lambda b: (
            linear(jnp.ones((rows, 2)), jnp.ones((2, 3)), b, compute=jnp.bfloat16)
            .astype(jnp.float32)
            .sum()
        )
    )(bias)
    np.testing.assert_array_equal(grad, rows)


@pytest.mark.parametrize("channels", [1, 3])
def test_several_input_axes(channels):
    """Of a patch: the product is that of the flattened weight, its gradient has its shape."""
    keys = jax.random.split(jax.random.key(1), 2)
    x = jax.random.normal(keys[0], (2, 3, 4 * channels))
    flat = jax.random.normal(keys[1], (4 * channels, 5))
    kernel = flat.reshape(2, 2, channels, 5)

    def product(weight, axes):
        return linear(x, weight, compute=jnp.float32, input_axes=axes)

    assert product(kernel, 3).shape == (2, 3, 5)
    np.testing.assert_array_equal(product(kernel, 3), product(flat, 1))
    ours = jax.grad(lambda w: jnp.sin(product(w, 3)).sum())(kernel)
    expected = jax.grad(lambda w: jnp.sin(product(w, 1)).sum())(flat)
    np.testing.assert_array_equal(ours, expected.reshape(kernel.shape))


def test_axes_of_the_input_may_lie_apart():
    """Rows and columns of patches inside an image: as if the patches had been cut out first."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(2), 2)
        x = jax.random.normal(keys[0], (3, 2, 4, 6), jnp.float64)
        kernel = jax.random.normal(keys[1], (2, 2, 3, 5), jnp.float64)

        def apart(x, kernel):
            return linear(x, kernel, compute=jnp.float64, axes=(1, 3), input_axes=3)

        def cut(x, kernel):
            patches = x.swapaxes(1, 2).reshape(3, 4, -1)
            return linear(patches, kernel.reshape(-1, 5), compute=jnp.float64)

        np.testing.assert_allclose(apart(x, kernel), cut(x, kernel), rtol=1e-13, atol=1e-13)
        ours, expected = (
            jax.grad(lambda args, f=f: jnp.sin(f(*args)).sum())((x, kernel)) for f in (apart, cut)
        )
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_spread_sums_its_gradient_in_float32():
    """A gain or token used in bf16 by a thousand rows: a bf16 sum of ones stops at 256."""
    x = jnp.ones((10, 100, 3), jnp.bfloat16)
    gain = jnp.asarray([1.0, 2.0, 3.0])
    assert spread(gain, x.shape, x.dtype).dtype == x.dtype
    np.testing.assert_array_equal(spread(gain, x.shape, x.dtype)[4, 7], gain)

    def total(gain):
        return (x * spread(gain, x.shape, x.dtype)).sum(dtype=jnp.float32)

    grad = jax.grad(total)(gain)
    assert grad.dtype == gain.dtype
    np.testing.assert_array_equal(grad, 1000.0)


def parts_of(x, weight, bias, dtype):
    """`linears` as one array like that of `linear`; the second part has no bias."""
    biases = [bias[0], None, bias[2]]
    outs = linears(x, weight, biases, compute=dtype, tensor_axis=-2)
    return jnp.stack(outs, axis=-2).reshape(*x.shape[:-1], *weight.shape[1:])


def test_parts_equal_one_product():
    """Values and gradients in float64."""
    with jax.enable_x64(True):
        x, weight, bias = operands((3, 2, 4), jnp.float64)
        masked = bias.at[1].set(0)

        def results(of):
            value, backwards = jax.vjp(of, x, weight, bias)
            return value, *backwards(jnp.cos(value))

        ours = results(lambda *args: parts_of(*args, jnp.float64))
        expected = results(lambda x, w, b: plain(x, w, b.at[1].set(0), jnp.float64))
        np.testing.assert_allclose(ours[0], plain(x, weight, masked, jnp.float64), rtol=1e-12)
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_parts_in_bf16_sum_their_gradients_in_float32():
    """That of the weight has its dtype; that of the input is rounded once, not for each part."""
    args = operands((3, 2, 4))
    x = args[0].astype(jnp.bfloat16)
    grad_x, grad_weight = jax.grad(
        lambda x, w: parts_of(x, w, args[2], jnp.bfloat16).astype(jnp.float32).sum(), (0, 1)
    )(x, args[1])
    assert grad_x.dtype == jnp.bfloat16 and grad_weight.dtype == jnp.float32
    wide = np.float32(args[1].astype(jnp.bfloat16)).reshape(7, -1).sum(axis=1)
    expected = np.float32(jnp.asarray(wide).astype(jnp.bfloat16))
    np.testing.assert_array_equal(np.float32(grad_x), np.broadcast_to(expected, x.shape))
