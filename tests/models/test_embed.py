"""From pixels to tokens: which pixels are in which patch, and the order of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.models.embed import Embed, PatchEmbed, patch_grid
from dinojax.precision import POLICIES

GROUPS, ROWS, PATCH, WIDTH, CHANNELS = 2, 3, 2, 5, 4
IMAGES = np.random.default_rng(0).normal(size=(GROUPS, ROWS, 5, 7, CHANNELS)).astype(np.float32)
GRID = (2, 3)
"""Of 5 x 7 px: a row and a column of pixels are left over."""


@pytest.mark.parametrize(
    ("size", "patch", "grid"),
    [((224, 224), 16, (14, 14)), ((5, 7), 2, GRID), ((16, 47), 16, (1, 2))],
)
def test_patch_grid(size, patch, grid):
    assert patch_grid(*size, patch) == grid


@pytest.mark.parametrize("size", [(15, 16), (16, 15)])
def test_images_smaller_than_a_patch_are_refused(size):
    with pytest.raises(ValueError, match=r"image of \d+x\d+ px .* patch_size=16 needs at least 16"):
        patch_grid(*size, 16)


def random_params(layer, *inputs):
    shapes = jax.eval_shape(layer.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)


def expected_patch(params, image: np.ndarray, row: int, column: int) -> np.ndarray:
    block = image[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
    return np.einsum("pqc,pqcd->d", block, params["kernel"]) + params["bias"]


def test_patches_are_row_major_without_the_remainder():
    layer = PatchEmbed(WIDTH, PATCH, POLICIES["float32"])
    params = random_params(layer, jnp.asarray(IMAGES))
    found = layer.apply({"params": params}, jnp.asarray(IMAGES))
    assert found.shape == (GROUPS, ROWS, 6, WIDTH)
    for patch, (row, column) in enumerate(np.ndindex(*GRID)):
        expected = expected_patch(params, IMAGES[1, 2], row, column)
        np.testing.assert_allclose(found[1, 2, patch], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("registers", [0, 2])
def test_tokens_are_cls_registers_patches(registers):
    layer = Embed(WIDTH, PATCH, registers, POLICIES["float32"])
    masks = np.zeros((GROUPS, ROWS, 6), bool)
    masks[0, 1, [0, 4]] = True
    given = jnp.asarray(IMAGES), jnp.asarray(masks)
    params = random_params(layer, *given)
    found = np.asarray(layer.apply({"params": params}, *given))
    assert found.shape == (GROUPS, ROWS, 1 + registers + 6, WIDTH)
    for group, row in np.ndindex(GROUPS, ROWS):
        np.testing.assert_array_equal(found[group, row, 0], params["cls_token"][0])
        if registers:
            np.testing.assert_array_equal(found[group, row, 1:3], params["storage_tokens"])
    patches = found[:, :, 1 + registers :]
    assert (patches[masks] == np.asarray(params["mask_token"])).all()
    whole = np.asarray(layer.apply({"params": params}, given[0], None))[:, :, 1 + registers :]
    np.testing.assert_array_equal(patches[~masks], whole[~masks])
    assert not (whole[masks] == np.asarray(params["mask_token"])).any()
