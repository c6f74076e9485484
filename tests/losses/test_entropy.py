"""Entropies of targets that exist, and of those that are never there at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import mesh as meshes
from dinojax.losses.chunked import TeacherRows
from dinojax.losses.entropy import chunked_mean_entropy, mean_entropy


def test_numbers():
    probs = jnp.asarray([[0.25, 0.25, 0.25, 0.25], [0, 1, 0, 0], [0.5, 0.5, 0, 0]])
    np.testing.assert_allclose(mean_entropy(probs), np.log(2) * (2 + 0 + 1) / 3, rtol=1e-6)
    weighted = mean_entropy(probs, jnp.asarray([1.0, 1.0, 2.0]))
    np.testing.assert_allclose(weighted, np.log(2) * (2 + 0 + 2) / 4, rtol=1e-6)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("chunk", [None, 3])
def test_chunks_and_devices(devices, chunk):
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    weights = jnp.asarray(rng.uniform(size=(4, 5)), jnp.float32)
    columns, center = normal(6, 9), normal(9)
    with jax.set_mesh(meshes.make_mesh(devices, 1, devices=jax.devices()[:devices])):
        for features, given in ((normal(2, 8, 6), None), (normal(4, 5, 6), weights)):
            rows = TeacherRows(features, columns, center, 0.3)
            found = jax.jit(lambda rows, w: chunked_mean_entropy(rows, w, chunk=chunk))(rows, given)
            probs = jax.nn.softmax((features @ columns - center) / 0.3)
            np.testing.assert_allclose(found, mean_entropy(probs, given), rtol=1e-5)
