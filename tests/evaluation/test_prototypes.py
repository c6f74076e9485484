"""Occupancy, agreement and decidedness of a head's outputs."""

import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.prototypes import agreement, entropy_share, occupancy

RNG = np.random.default_rng(0)


def of_winners(winners: list[int], prototypes: int) -> jnp.ndarray:
    return jnp.asarray(
        3 * np.eye(prototypes)[winners] + RNG.uniform(0, 1, (len(winners), prototypes))
    )


def test_occupancy_is_of_what_rows_can_have():
    assert occupancy(of_winners([5, 5, 5, 5], 8)) == 0.25  # 1 of 4 rows
    assert occupancy(of_winners([0, 1, 2, 2], 8)) == 0.75
    assert occupancy(of_winners([0, 1, 0, 1, 0], 2)) == 1  # both prototypes
    assert occupancy(of_winners([0, 1, 2, 3], 8)) == 1


def test_occupancy_does_not_see_scale_and_order():
    logits = jnp.asarray(RNG.normal(size=(40, 12)))
    found = occupancy(logits)
    assert (
        occupancy(9 * logits + 1) == found == occupancy(logits[::-1]) == occupancy(logits[:, ::-1])
    )


def test_agreement():
    one, other = of_winners([0, 1, 2, 3], 5), of_winners([0, 1, 3, 3], 5)
    assert agreement(one, one) == 1 and agreement(one, other) == 0.75 == agreement(other, one)


def test_entropy_as_a_share_of_all():
    assert entropy_share(jnp.full((2, 3, 7), 1 / 7)) == pytest.approx(1)
    assert entropy_share(jnp.eye(7)) == pytest.approx(0)
    half = jnp.asarray([[0.5, 0.5, 0, 0], [1.0, 0, 0, 0]])
    assert entropy_share(half) == pytest.approx(0.25)
