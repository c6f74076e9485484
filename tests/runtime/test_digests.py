"""Digests see every bit and its place, and are the same however an array is split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import mesh
from dinojax.runtime.digests import digests

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint8", "bool")


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_change_of_one_element_shows(dtype):
    x = np.asarray(jax.random.normal(jax.random.key(0), (7, 9)) > 0, dtype)
    before = digests({"x": x})["x"]
    for i in (0, 31, 62):
        changed = x.copy()
        view = changed.view(np.uint8)
        view.flat[i * x.itemsize] ^= 1
        assert digests({"x": changed})["x"] != before
    assert digests({"x": x.copy()})["x"] == before


def test_places_shapes_and_float64_count():
    x = np.arange(24.0, dtype="float32")
    swapped = x.copy()
    swapped[[3, 4]] = x[[4, 3]]
    assert digests({"x": x}) != digests({"x": swapped})
    assert digests({"x": x.reshape(4, 6)}) == digests({"x": x})  # Orbax knows the shapes
    zeros = digests({"a": jnp.zeros(3), "b": -jnp.zeros(3), "c": jnp.zeros(4)})
    assert len(set(zeros.values())) == 3
    with jax.enable_x64(True):
        wide = np.arange(24.0)
        low = wide.copy()
        low.view(np.uint64)[5] ^= 1
        assert digests({"x": wide}) != digests({"x": low})


def test_the_same_on_every_mesh():
    x = jax.random.normal(jax.random.key(1), (64, 64))
    tree = {"blocks": {"w": jnp.stack([x, x + 1])}, "b": x[0]}
    expected = digests(tree)
    for sizes in ((8, 1), (2, 4), (1, 8)):
        on = mesh.make_mesh(*sizes)
        with jax.set_mesh(on):
            assert digests(jax.device_put(tree, mesh.shardings(on, tree))) == expected


def test_names_and_length():
    found = digests({"a": {"b": jnp.ones(2)}, "c": jnp.int32(3)})
    assert list(found) == ["a/b", "c"] and {len(value) for value in found.values()} == {16}
