"""The two layouts of multi-crop arrays, and draws as functions of (seed, step, group)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.ssl.inputs import DrawRates, make_draws, make_gain_draws, to_groups, to_views

DEPTH, GROUPS = 3, 4
ROWS = {"global": 10, "local": 16}
RATES = DrawRates(drop_path_rate=0.3, shift_coords=0.1, jitter_coords=1.5, rescale_coords=2.0)


def draws(rates=RATES, *, seed=0, step=0, groups=GROUPS, depth=DEPTH, rows=ROWS):
    return make_draws(rates, seed=seed, depth=depth, rows=rows)(step, jnp.arange(groups))


def same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def test_groups_are_crop_major_inside():
    views, images, groups = 3, 8, 4
    x = jnp.arange(24.0).reshape(views, images)
    grouped = to_groups(x, groups)
    assert grouped.shape == (groups, views * 2)
    for group, view, image in np.ndindex(groups, views, 2):
        assert grouped[group, view * 2 + image] == x[view, group * 2 + image]
    np.testing.assert_array_equal(to_views(grouped, views), x)


def test_trailing_axes_stay():
    x = jnp.arange(180.0).reshape(2, 6, 5, 3)
    assert to_groups(x, 3).shape == (3, 4, 5, 3)
    np.testing.assert_array_equal(to_views(to_groups(x, 3), 2), x)


def test_shapes_and_ranges():
    for crop, given in zip(ROWS.values(), jax.jit(draws)(), strict=True):
        coordinates, kept, _ = given
        for name, width, bound in (
            ("shift", 2, 0.1),
            ("log_jitter", 2, math.log(1.5)),
            ("log_rescale", 1, math.log(2.0)),
        ):
            numbers = getattr(coordinates, name)
            assert numbers.shape == (DEPTH, GROUPS, width)
            assert 0.3 * bound < np.abs(numbers).max() <= bound
            assert np.unique(numbers).size == numbers.size, "layers or groups share a draw"
        count = int(crop * 0.7)
        for rows in kept:
            assert rows.shape == (DEPTH, GROUPS, count)
            for layer, group in np.ndindex(DEPTH, GROUPS):
                chosen = np.asarray(rows[layer, group])
                assert len(set(chosen.tolist())) == count
                assert chosen.min() >= 0 and chosen.max() < crop
        assert not np.array_equal(kept.attention, kept.ffn)


def test_every_row_is_kept_equally_often():
    rates = DrawRates(drop_path_rate=0.3)
    rows = jax.jit(lambda: draws(rates, groups=2000, depth=1))()[0].kept.attention
    share = np.bincount(np.asarray(rows).ravel(), minlength=10) / 2000
    assert np.abs(share - 0.7).max() < 5 * np.sqrt(0.7 * 0.3 / 2000)


def test_draws_follow_seed_step_and_crop_size_only():
    @jax.jit
    def some():
        options = {"depth": 1, "rows": {"global": 10, "local": 10}}
        return [draws(**options, **other) for other in ({}, {}, {"seed": 1}, {"step": 1})]

    given, again, seed, step = some()
    assert same(given, again)
    for other in (seed, step, given[::-1]):
        pairs = zip(jax.tree.leaves(given), jax.tree.leaves(other), strict=True)
        assert not any(np.array_equal(x, y) for x, y in pairs)


def test_a_group_does_not_depend_on_how_many_there_are():
    rows = {"global": 10}
    few, many = jax.jit(lambda: [draws(groups=n, depth=1, rows=rows) for n in (2, 4)])()
    assert same(few, jax.tree.map(lambda x: x[:, :2], many))


def test_one_augmentation_at_a_time():
    fields = {
        "shift_coords": "shift",
        "jitter_coords": "log_jitter",
        "rescale_coords": "log_rescale",
    }
    for name, field in fields.items():
        for coordinates, kept, _ in jax.eval_shape(
            lambda name=name: draws(DrawRates(**{name: 1.5}))
        ):
            assert kept is None
            assert [k for k, v in coordinates._asdict().items() if v is not None] == [field]


def test_without_rates_there_is_nothing_to_draw():
    assert draws(DrawRates()) == (None, None)
    given = jax.eval_shape(lambda: draws(DrawRates(drop_path_rate=0.5)))
    assert all(d.coordinates is None and d.kept is not None for d in given)


def test_gains_of_convnext_are_of_the_step_and_the_group():
    """Per layer and crop, the first layer always whole; another step or group draws others."""
    sizes = {"seed": 0, "depth": DEPTH, "rows": ROWS}
    make = make_gain_draws(0.5, **sizes)
    run = jax.jit(make)
    first = run(0, jnp.arange(GROUPS))
    for crop, given in zip(ROWS.values(), first, strict=True):
        assert given.coordinates is given.kept is None
        assert given.gains.shape == (DEPTH, GROUPS, crop)
        np.testing.assert_array_equal(given.gains[0], 1)
        np.testing.assert_allclose(np.unique(given.gains[-1]), [0, 2])
    assert same(first, run(0, jnp.arange(GROUPS))) and not same(first, run(1, jnp.arange(GROUPS)))
    later = jax.tree.map(lambda x: x[:, 2:], first)
    assert same(later, jax.jit(make)(0, jnp.arange(2, GROUPS)))
    assert make_gain_draws(0.0, **sizes)(0, jnp.arange(GROUPS)) == (None, None)
