"""Shares of patches with far larger norms than the median of their image."""

import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.patch_norms import patch_norm_outliers

RNG = np.random.default_rng(0)


def patches(norms: list[float]) -> jnp.ndarray:
    rows = RNG.normal(size=(1, len(norms), 5))
    rows *= np.array(norms)[:, None] / np.linalg.norm(rows, axis=-1, keepdims=True)
    return jnp.asarray(rows, jnp.float32)


def test_shares():
    assert patch_norm_outliers(patches([1, 2, 2, 2, 6.5]))[0] == pytest.approx(0.2)
    assert patch_norm_outliers(patches([1, 2, 2, 2, 5.5]))[0] == 0
    assert patch_norm_outliers(patches([1, 2, 2, 2, 5.5]), far=2.0)[0] == pytest.approx(0.2)
    # Of an image where most are far out, the median is as well.
    assert patch_norm_outliers(patches([1, 1, 9, 9, 9]))[0] == 0


def test_each_image_has_its_own_median():
    small, large = patches([1, 1, 1, 4]), patches([10, 10, 10, 10])
    found = patch_norm_outliers(jnp.concatenate([small, large]))
    np.testing.assert_allclose(found, [0.25, 0])
    np.testing.assert_allclose(patch_norm_outliers(100 * small), found[:1])


def test_numpy_oracle():
    x = RNG.normal(size=(3, 11, 4)) * RNG.lognormal(0, 1.5, (3, 11, 1))
    norms = np.linalg.norm(x, axis=-1)
    expected = (norms > 3 * np.median(norms, axis=1, keepdims=True)).mean(axis=1)
    assert expected.max() > 0
    np.testing.assert_allclose(patch_norm_outliers(jnp.asarray(x, jnp.float32)), expected)
