"""Blur against a direct convolution in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.views.blur import RADIUS, gaussian_blur


def direct(image: np.ndarray, sigma: float) -> np.ndarray:
    taps = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        padding = [(RADIUS, RADIUS) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(image, padding, mode="reflect")
        line = [np.take(padded, np.arange(image.shape[axis]) + t, axis) for t in range(len(taps))]
        image = sum(w * x for w, x in zip(taps, line, strict=True))
    return image


@pytest.mark.parametrize("size", [(RADIUS + 1, RADIUS + 1), (8, 33), (33, 8)])
def test_blur(size):
    image = np.random.default_rng(0).uniform(0, 255, (*size, 3))
    sigmas = jnp.asarray((0.1, 0.5, 1.0, 2.0, 9.0))
    ours = jax.jit(jax.vmap(gaussian_blur, (None, 0)))(jnp.asarray(image, jnp.float32), sigmas)
    for blurred, sigma in zip(ours, sigmas, strict=True):
        expected = direct(image, float(sigma))
        np.testing.assert_allclose(blurred, expected, atol=1e-5 * 255, rtol=0)


def test_zero_sigma_is_the_identity():
    image = jnp.asarray(np.random.default_rng(1).uniform(0, 255, (12, 12, 2)), jnp.float32)
    np.testing.assert_array_equal(jax.jit(gaussian_blur)(image, 0.0), image)


def test_constant_images_stay_constant():
    image = jnp.full((16, 16, 1), 200.0)
    np.testing.assert_allclose(gaussian_blur(image, 1.3), image, rtol=1e-6)


def test_too_small_for_reflection():
    with pytest.raises(ValueError, match=r"4 px; use crops of at least 5 px"):
        gaussian_blur(jnp.zeros((9, RADIUS, 3)), 1.0)
