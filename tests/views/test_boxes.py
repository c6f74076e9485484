"""Crop boxes: always inside, of the drawn shape, with torchvision's fallback."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.views.boxes import BOX_DRAWS, choose_box, largest_side
from dinojax.views.draws import draw as draw_units

DRAWS = 2000


@partial(jax.jit, static_argnames=("scale", "ratio"))
def box_of_each(keys, sizes, scale, **options):
    return jax.vmap(lambda k, s: choose_box(draw_units(k, **BOX_DRAWS), s, scale, **options))(
        keys, sizes
    )


def draw(size_hw, scale, **options):
    keys = jax.random.split(jax.random.key(0), DRAWS)
    sizes = jnp.tile(jnp.asarray(size_hw, jnp.int32), (DRAWS, 1))
    return np.asarray(box_of_each(keys, sizes, scale, **options))


@pytest.mark.parametrize("size_hw", [(30, 40), (500, 375), (1, 1), (3, 200)])
def test_boxes_lie_inside_the_image(size_hw):
    boxes = draw(size_hw, (0.05, 1.0))
    assert boxes.dtype == np.int32
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] > 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= size_hw).all()


def test_area_and_aspect_stay_in_range():
    _, _, height, width = draw((600, 800), (0.05, 0.32)).T.astype(float)
    area, aspect = height * width / 480_000, width / height
    assert area.min() > 0.049 and area.max() < 0.322
    assert aspect.min() > 0.74 and aspect.max() < 1.35


def test_every_offset_occurs_including_the_last():
    boxes = draw((6, 6), (0.4, 0.4), ratio=(1.0, 1.0))
    assert set(boxes[:, 2]) == {4}
    assert set(boxes[:, 0]) == set(boxes[:, 1]) == {0, 1, 2}
    assert abs(np.corrcoef(boxes[:, 0], boxes[:, 1])[0, 1]) < 5 / np.sqrt(DRAWS)


@pytest.mark.parametrize(
    ("size_hw", "box"),
    [((100, 900), (0, 383, 100, 133)), ((900, 90), (390, 0, 120, 90))],
)
def test_fallback_is_the_largest_centred_box(size_hw, box):
    np.testing.assert_array_equal(draw(size_hw, (0.9, 1.0)), np.tile(box, (DRAWS, 1)))


def test_fallback_of_a_common_shape_is_the_whole_image():
    boxes = draw((90, 100), (1.2, 1.5))
    np.testing.assert_array_equal(boxes, np.tile((0, 0, 90, 100), (DRAWS, 1)))


def test_size_may_differ_per_image():
    sizes = jnp.asarray([(40, 30), (12, 17)], jnp.int32)
    keys = jax.random.split(jax.random.key(3), 2)
    batch = box_of_each(keys, sizes, (0.05, 1.0))
    for i in range(2):
        alone = box_of_each(keys[i : i + 1], sizes[i : i + 1], (0.05, 1.0))
        np.testing.assert_array_equal(batch[i], alone[0])


@pytest.mark.parametrize("scale", [(0.05, 0.32), (0.32, 0.5), (0.32, 0.7), (0.32, 1.0)])
def test_no_side_exceeds_the_bound(scale):
    """Of any image in the canvas, narrow ones, which take the fallback, above all."""
    canvas_px = 96
    bound = largest_side(canvas_px, scale)
    assert bound == min(canvas_px, bound)
    rng = np.random.default_rng(0)
    short = rng.integers(1, canvas_px + 1, 1500)
    sizes = np.stack([short, np.full_like(short, canvas_px)], axis=1)
    sizes = np.concatenate([sizes, sizes[:, ::-1], rng.integers(1, canvas_px + 1, (1500, 2))])
    keys = jax.random.split(jax.random.key(1), len(sizes))
    boxes = box_of_each(keys, jnp.asarray(sizes), scale)
    assert boxes[:, 2:].max() <= bound
    assert boxes[:, 2:].max() > 0.85 * bound


def test_bound_of_the_published_recipes():
    assert largest_side(512, (0.05, 0.32)) == 336
    assert largest_side(512, (0.32, 1.0)) == 512
