"""RoPE by its properties: what it rotates, what it preserves and what it rejects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.kernels.rope import CoordinateDraws, apply_rope, rope_periods, rope_tables

GRID, PREFIX, HEAD_DIM = (3, 4), 5, 16


def tables_for(grid=GRID, **options):
    return rope_tables(grid, rope_periods(HEAD_DIM, dtype=jnp.float32), **options)


def features(tokens: int, seed: int = 0) -> jax.Array:
    """``[G b N H d]``."""
    return jax.random.normal(jax.random.key(seed), (1, 2, tokens, 3, HEAD_DIM))


def test_head_dim_must_be_a_multiple_of_four():
    with pytest.raises(ValueError, match=r"head_dim=18 .*use 20"):
        rope_periods(18, dtype=jnp.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"base": 100.0, "min_period": 0.5, "max_period": 8.0},
        {"base": 100.0, "min_period": 0.5},
        {"base": 100.0, "max_period": 8.0},
        {"base": None},
        {"base": None, "min_period": 0.5},
        {"base": None, "max_period": 8.0},
    ],
)
def test_exactly_one_parametrisation(options):
    with pytest.raises(ValueError, match=r"pos_embed_rope_base or both pos_embed_rope_min_period"):
        rope_periods(HEAD_DIM, **options, dtype=jnp.float32)


def test_unknown_mode():
    with pytest.raises(ValueError, match=r"normalize_coords='mean' is unknown; .*separate"):
        tables_for(mode="mean")


def test_periods_are_geometric_between_their_bounds():
    periods = rope_periods(HEAD_DIM, base=None, min_period=0.5, max_period=32.0, dtype=jnp.float32)
    np.testing.assert_allclose(periods, [0.5, 2, 8, 32], rtol=1e-6)
    np.testing.assert_allclose(
        rope_periods(HEAD_DIM, base=16.0, dtype=jnp.float32), [1, 2, 4, 8], rtol=1e-6
    )


def test_layout_is_y_x_y_x():
    # Rows at y = -1/2, 1/2, one column at x = 0; one period of 1: angles -pi, pi and 0.
    tables = rope_tables((2, 1), jnp.ones(1))
    np.testing.assert_allclose(tables.cos[0], [[-1, 1, -1, 1]] * 2, atol=1e-6)
    tables = rope_tables((1, 2), jnp.ones(1))
    np.testing.assert_allclose(tables.cos[0], [[1, -1, 1, -1]] * 2, atol=1e-6)


def test_prefix_tokens_are_not_rotated():
    x = features(PREFIX + 12)
    out = apply_rope(x, tables_for(prefix_tokens=PREFIX))
    np.testing.assert_array_equal(out[:, :, :PREFIX], x[:, :, :PREFIX])
    np.testing.assert_array_equal(
        out[:, :, PREFIX:], apply_rope(x[:, :, PREFIX:], tables_for(prefix_tokens=0))
    )
    assert (jnp.abs(out - x)[:, :, PREFIX:].max(axis=-1) > 0.1).all()


def test_preserves_norms():
    x = features(12)
    out = apply_rope(x, tables_for())
    norms = [np.linalg.norm(v, axis=-1) for v in (out, x)]
    np.testing.assert_allclose(*norms, rtol=1e-5)


def test_scores_depend_on_coordinate_differences_only():
    """The same q and k everywhere: scores of patches with the same offset are the same."""
    grid = (4, 4)
    q, k = (jnp.broadcast_to(features(1, seed), (1, 2, 16, 3, HEAD_DIM)) for seed in (1, 2))
    tables = tables_for(grid)
    scores = jnp.einsum("gbqhd,gbkhd->gbhqk", apply_rope(q, tables), apply_rope(k, tables))
    scores = np.asarray(scores).reshape(2, 3, *grid, *grid)
    spread = []
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            same = np.stack(
                [
                    scores[:, :, y, x, y + dy, x + dx]
                    for y in range(max(0, -dy), min(4, 4 - dy))
                    for x in range(max(0, -dx), min(4, 4 - dx))
                ]
            )
            np.testing.assert_allclose(same, np.broadcast_to(same[0], same.shape), atol=1e-4)
            spread.append(same[0])
    assert np.std(spread, axis=0).min() > 0.1  # while different offsets differ


def test_shift_leaves_scores_unchanged_and_rescale_does_not():
    q, k = features(12, 1), features(12, 2)

    def scores(draws):
        tables = tables_for(draws=draws)
        return jnp.einsum("gbqhd,gbkhd->gbhqk", apply_rope(q, tables), apply_rope(k, tables))

    plain = scores(None)
    shifted = scores(CoordinateDraws(shift=jnp.array([[0.3, -0.2]])))
    np.testing.assert_allclose(shifted, plain, atol=1e-4)
    rescaled = scores(CoordinateDraws(log_rescale=jnp.array([[0.3]])))
    assert jnp.abs(rescaled - plain).max() > 0.1


def test_draws_give_one_table_per_group():
    draws = CoordinateDraws(log_jitter=jnp.array([[0.0, 0.0], [0.4, 0.0]]))
    tables = tables_for(draws=draws)
    assert tables.sin.shape == (2, 12, HEAD_DIM)
    np.testing.assert_array_equal(tables.sin[0], tables_for().sin[0])
    y, x = (np.abs(tables.sin[1] - tables.sin[0]).reshape(12, 2, 2, -1)[:, :, i] for i in (0, 1))
    assert y.max() > 0.1
    assert x.max() == 0
