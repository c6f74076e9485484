"""Keys are functions of (seed, step, stream, slot) and of nothing else."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.prng import key_for, slot_keys


def data(key) -> np.ndarray:
    return np.asarray(jax.random.key_data(key))


def test_every_argument_changes_the_key():
    keys = [
        key_for(seed, step, *stream)
        for seed, step in itertools.product((0, 1), (0, 1, 2))
        for stream in ((), ("masks",), ("rope",), ("masks", "rope"), ("rope", "masks"))
    ]
    assert len({tuple(data(key)) for key in keys}) == len(keys)


def test_traced_step_gives_the_same_key():
    traced = jax.jit(lambda step: key_for(3, step, "masks"))(jnp.asarray(41237))
    np.testing.assert_array_equal(data(traced), data(key_for(3, 41237, "masks")))


def test_key_is_stable():
    """Replay and resume depend on it: a change here is a change of every run."""
    assert data(key_for(5, 7, "masks")).tolist() == [1300186896, 1921306972]


def test_a_slot_does_not_know_how_many_slots_there_are():
    key = key_for(0, 0, "views")
    eight = data(slot_keys(key, 8))
    assert eight.shape[0] == 8
    assert len({tuple(row) for row in eight}) == 8
    np.testing.assert_array_equal(data(slot_keys(key, 3)), eight[:3])
    np.testing.assert_array_equal(data(slot_keys(key, [6, 2])), eight[[6, 2]])
    np.testing.assert_array_equal(data(slot_keys(key, jnp.arange(4, 8))), eight[4:])
