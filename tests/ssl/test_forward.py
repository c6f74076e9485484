"""Gathering the masked patches of each group."""

import jax.numpy as jnp
import numpy as np

from dinojax.ssl.forward import gather_patches


def test_positions_are_within_the_group():
    patches = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    indices = np.array([[0, 5, 11], [3, 3, 8]])
    found = gather_patches(jnp.asarray(patches), jnp.asarray(indices))
    assert found.shape == (2, 3, 5)
    for group, token in np.ndindex(2, 3):
        crop, patch = divmod(int(indices[group, token]), 4)
        np.testing.assert_array_equal(found[group, token], patches[group, crop, patch])
