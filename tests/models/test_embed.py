"""From pixels to tokens: which pixels are in which patch, and the order of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.models.embed import Embed, PatchEmbed, patch_grid, resample_positions
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


def test_learned_positions_are_for_cls_and_patches_not_for_registers():
    """After masking: a masked patch is the mask token at its own place."""
    layer = Embed(WIDTH, PATCH, 2, POLICIES["float32"], pos_embed_grid=3, interpolate_offset=0.0)
    masks = np.zeros((GROUPS, ROWS, 6), bool)
    masks[1, 2, 4] = True
    given = jnp.asarray(IMAGES), jnp.asarray(masks)
    params = random_params(layer, *given)
    without = {**params, "pos_embed": jnp.zeros_like(params["pos_embed"])}
    difference = layer.apply({"params": params}, *given) - layer.apply({"params": without}, *given)
    table = resample_positions(params["pos_embed"], GRID, offset=0.0)
    for group, row in np.ndindex(GROUPS, ROWS):
        np.testing.assert_allclose(difference[group, row, 0], table[0], atol=1e-5)
        np.testing.assert_array_equal(difference[group, row, 1:3], 0)
        np.testing.assert_allclose(difference[group, row, 3:], table[1:], atol=1e-5)
    np.testing.assert_array_equal(table[0], params["pos_embed"][0])


def test_bf16_gradient_of_learned_positions_is_summed_in_float32():
    """Of 1000 images, each with a cotangent of 1: a bf16 sum stops at 256."""
    layer = Embed(WIDTH, PATCH, 0, POLICIES["bfloat16"], pos_embed_grid=1)
    images = jnp.zeros((1, 1000, PATCH, PATCH, 3))
    params = layer.init(jax.random.key(0), images, None)["params"]
    grads = jax.grad(lambda p: layer.apply({"params": p}, images, None).astype(float).sum())(params)
    np.testing.assert_array_equal(grads["pos_embed"], 1000)


def test_a_table_of_its_own_shape_is_used_as_it_is():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(17, 3)), jnp.float32)
    np.testing.assert_array_equal(resample_positions(table, (4, 4)), table)
    other = resample_positions(table, (2, 8))
    assert other.shape == table.shape and np.abs(other[1:] - table[1:]).max() > 0.1
    # Constants stay constant, whatever the rule.
    flat = jnp.ones((17, 3))
    for antialias in (False, True):
        found = resample_positions(flat, (3, 7), antialias=antialias)
        np.testing.assert_allclose(found, 1, rtol=1e-5)
