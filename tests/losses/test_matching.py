"""Distances between features against their definitions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import check_loss

from dinojax.losses.matching import cosine_distance, smooth_l1, standardize

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(2, 3, 5))
TEACHER = RNG.normal(size=(2, 3, 5))


def each_token(function):
    """The mean over tokens of a function of two vectors."""
    return lambda student, teacher: np.mean(
        [function(student[i], teacher[i]) for i in np.ndindex(student.shape[:-1])]
    )


def mean_of(distance, **options):
    return lambda student, teacher: distance(student, teacher, **options).mean()


COSINE = mean_of(cosine_distance)


def test_cosine_distance():
    oracle = each_token(lambda a, b: 1 - a @ b / np.sqrt((a @ a) * (b @ b)))
    check_loss(COSINE, oracle, STUDENT, TEACHER)


@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_smooth_l1(beta):
    """Both sides of beta are met."""

    def of_vectors(a, b):
        sizes = [abs(x - y) for x, y in zip(a, b, strict=True)]
        return np.mean([d**2 / (2 * beta) if d < beta else d - beta / 2 for d in sizes])

    size = np.abs(STUDENT - TEACHER)
    assert (size < beta).any() and (size > beta).any()
    check_loss(mean_of(smooth_l1, beta=beta), each_token(of_vectors), STUDENT, TEACHER)


def test_standardize():
    """As a layer norm without gain and bias; through it flows a gradient too."""

    def oracle(x, y):
        return each_token(lambda a, b: b @ ((a - a.mean()) / np.sqrt(a.var() + 1e-6)))(x, y)

    check_loss(lambda x, y: (standardize(x) * y).sum(-1).mean(), oracle, STUDENT, TEACHER)
    found = standardize(jnp.asarray(3 * TEACHER + 7))
    np.testing.assert_allclose(found, standardize(jnp.asarray(TEACHER)), rtol=1e-3, atol=1e-3)


def test_what_each_sees():
    """Directions, or sizes too."""
    far = jnp.asarray(TEACHER)
    np.testing.assert_allclose(cosine_distance(4 * far, far), 0, atol=1e-6)
    np.testing.assert_allclose(cosine_distance(-far, far), 2, atol=1e-6)
    assert (smooth_l1(4 * far, far) > 0.1).all()
    assert not np.asarray(smooth_l1(far, far)).any()


@pytest.mark.parametrize("distance", [cosine_distance, partial(smooth_l1, beta=0.5)])
def test_zeros_and_narrow_floats(distance):
    """Rows of zeros have a finite gradient; 16-bit features are widened."""
    zeros = jnp.zeros((2, 5))
    loss = jax.value_and_grad(lambda x, y: distance(x, y).mean())
    for pair in ((zeros, zeros), (zeros, jnp.ones((2, 5)))):
        assert all(np.isfinite(x).all() for x in loss(*pair))
    narrow = [jnp.asarray(x, jnp.bfloat16) for x in (STUDENT, TEACHER)]
    wide = [x.astype(jnp.float32) for x in narrow]
    np.testing.assert_array_equal(distance(*narrow), distance(*wide))


def test_no_beta_of_zero():
    with pytest.raises(ValueError, match=r"beta=0.0 must be above 0; use 1\.0"):
        smooth_l1(jnp.ones(2), jnp.ones(2), beta=0.0)
