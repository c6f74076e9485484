"""Resized grids against `torch.nn.functional.interpolate`."""

import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.kernels.resize import METHODS, resize_grid

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("grid", "out"), [((12, 9), (6, 6)), ((5, 7), (8, 4)), ((48, 48), (32, 32)), ((2, 3), (5, 1))]
)
def test_interpolate(grid, out, method, antialias):
    import torch

    x = np.random.default_rng(0).normal(size=(2, *grid, 3)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(x).permute(0, 3, 1, 2), size=out, mode=method, antialias=antialias
    )
    ours = resize_grid(jnp.asarray(x), out, method=method, antialias=antialias)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=5e-6)
