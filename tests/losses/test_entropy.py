"""Entropies of targets."""

import jax.numpy as jnp
import numpy as np

from dinojax.losses.entropy import mean_entropy


def test_numbers():
    probs = jnp.asarray([[0.25, 0.25, 0.25, 0.25], [0, 1, 0, 0], [0.5, 0.5, 0, 0]])
    np.testing.assert_allclose(mean_entropy(probs), np.log(2) * (2 + 0 + 1) / 3, rtol=1e-6)
