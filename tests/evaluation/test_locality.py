"""Locality and drift on features whose similarities are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.locality import drift, locality

RNG = np.random.default_rng(0)


def angles(*degrees: float) -> jnp.ndarray:
    """A row of patches on the unit circle: ``[1, 1, n, 2]``."""
    radians = np.deg2rad(degrees)
    return jnp.asarray(np.stack([np.cos(radians), np.sin(radians)], -1)[None, None], jnp.float32)


def test_three_patches_in_a_row():
    """Pairs (0, 1), (0, 2), (1, 2) are at distances 1, 2, 1."""
    assert float(locality(angles(0, 60, 120))[0]) == pytest.approx(1, abs=1e-5)  # 0.5, -0.5, 0.5
    # -0.5, 0.5, 0.5: the deviations -2/3, 1/3, 1/3 meet 1/3, -2/3, 1/3.
    assert float(locality(angles(0, 120, 60))[0]) == pytest.approx(-0.5, abs=1e-5)
    assert float(locality(angles(0, 90, 0))[0]) == pytest.approx(-1, abs=1e-5)


def test_numpy_oracle():
    patches = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    found = locality(jnp.asarray(patches))
    for image, value in zip(patches.astype(float), found, strict=True):
        pairs = []
        for i in range(12):
            for j in range(i):
                a, b = image[i // 4, i % 4], image[j // 4, j % 4]
                cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                pairs.append((cosine, -np.hypot(i // 4 - j // 4, i % 4 - j % 4)))
        assert float(value) == pytest.approx(np.corrcoef(np.array(pairs).T)[0, 1], abs=1e-5)


def test_what_decay_does():
    """A smooth field of features is local. The CLS feature in every patch leaves locality as it
    is and is drift; noise in place of the field takes locality away."""
    y, x = np.mgrid[:6, :6]
    field = np.stack([np.cos(y / 3), np.sin(y / 3), np.cos(x / 3), np.sin(x / 3)], -1)
    field = np.concatenate([field, np.zeros((6, 6, 1))], -1)[None]
    cls = jnp.asarray([[0.0, 0, 0, 0, 1]])
    common = field + 3 * np.eye(5)[4]
    noise = RNG.normal(size=field.shape)
    plain, alike, noisy = (
        float(locality(jnp.asarray(x, jnp.float32))[0])
        for x in (field, common, 0.3 * field + noise)
    )
    assert plain > 0.9 and alike == pytest.approx(plain, abs=0.01) and abs(noisy) < 0.4
    before, after = (float(drift(cls, jnp.asarray(x, jnp.float32))[0]) for x in (field, common))
    assert before == pytest.approx(0, abs=1e-6)
    assert after == pytest.approx(3 / np.sqrt(2 + 9), abs=1e-5)


def test_patches_that_are_all_alike():
    assert locality(jnp.full((1, 2, 3, 4), 0.37))[0] == 0
    assert float(drift(jnp.full((1, 4), 2.0), jnp.full((1, 2, 3, 4), 0.37))[0]) == pytest.approx(1)


def test_scale_of_single_features_does_not_matter():
    patches = RNG.normal(size=(1, 3, 3, 4))
    scaled = patches * RNG.uniform(0.5, 2, (1, 3, 3, 1))
    found = [float(locality(jnp.asarray(x, jnp.float32))[0]) for x in (patches, scaled)]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_too_few_patches():
    with pytest.raises(ValueError, match="grid of 1x2, too few to compare; use larger images"):
        locality(jnp.zeros((1, 1, 2, 4)))
