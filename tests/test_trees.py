"""Paths, counts, norms and selection over parameter trees."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import trees


class Pair(NamedTuple):
    first: dict
    second: list


TREE = Pair({"b": {"kernel": jnp.full((2, 3), 2.0)}, "a": jnp.array([1.0])}, [jnp.array(-3.0)])


def test_paths_of_dicts_fields_and_indices():
    names = ["first/a", "first/b/kernel", "second/0"]
    assert list(trees.flatten(TREE)) == names
    assert trees.flatten(TREE)["second/0"] == -3
    seen = trees.map_named(lambda path, x, y: (path, float(x.sum() + y.sum())), TREE, TREE)
    assert seen == Pair(
        {"a": ("first/a", 2.0), "b": {"kernel": (names[1], 24.0)}}, [(names[2], -6)]
    )


def test_count_needs_no_values():
    assert trees.count(TREE) == 8
    assert trees.count(jax.eval_shape(lambda: TREE)) == 8


def test_global_norm_is_over_all_leaves():
    np.testing.assert_allclose(trees.global_norm(TREE), np.sqrt(6 * 4 + 1 + 9), rtol=1e-6)


def test_global_norm_adds_in_float32():
    # In bfloat16 the sum of 1000 ones stops at 256.
    ones = {"a": jnp.ones(1000, jnp.bfloat16), "b": jnp.ones(24, jnp.bfloat16)}
    norm = trees.global_norm(ones)
    assert norm.dtype == jnp.float32
    assert norm == 32


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_one_bad_element_is_found(bad):
    assert trees.is_finite(TREE)
    tree = TREE._replace(first={**TREE.first, "b": {"kernel": jnp.ones((2, 3)).at[1, 2].set(bad)}})
    assert not trees.is_finite(tree)


@pytest.mark.parametrize("condition", [True, False])
def test_where_takes_whole_trees_even_from_nan(condition):
    nan = jax.tree.map(lambda x: x * jnp.nan, TREE)
    pair = (TREE, nan) if condition else (nan, TREE)
    out = jax.jit(trees.where)(jnp.asarray(condition), *pair)
    jax.tree.map(np.testing.assert_array_equal, out, TREE)
