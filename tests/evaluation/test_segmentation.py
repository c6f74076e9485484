"""Linear segmentation on cases whose answer is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.data.map_batches import MapBatch
from dinojax.evaluation.features import DenseFeatures
from dinojax.evaluation.segmentation import linear_segmentation

PATCH, SIDE = 4, 16
"""Four by four patches."""


def batch(classes: np.ndarray, valid: list[bool] | None = None) -> MapBatch:
    """Images ``[b, 4, 4]`` of patches, each of one class and of the grey level 10 x class."""
    maps = np.repeat(np.repeat(classes, PATCH, 1), PATCH, 2).astype(np.int32)
    canvas = np.repeat((10 * maps)[..., None], 3, -1).astype(np.uint8)
    return MapBatch(
        canvas=canvas,
        size=np.full((len(maps), 2), SIDE, np.int32),
        segmentation=maps,
        valid=np.array(valid or [True] * len(maps)),
    )


def encode(canvas: np.ndarray, size: np.ndarray) -> DenseFeatures:
    """The level of a patch as one of 26 features: classes are linearly separable."""
    level = jnp.asarray(canvas[:, ::PATCH, ::PATCH, 0].astype(np.int32) // 10)
    patches = jnp.eye(26)[level]
    return DenseFeatures(patches.mean((1, 2)), patches)


def rows(*numbers: int) -> np.ndarray:
    """An image whose four rows of patches have these classes."""
    return np.repeat(np.array(numbers)[:, None], 4, 1)


ALL = np.stack([rows(0, 3, 7, 7), rows(3, 3, 0, 7)])


def run(train: MapBatch, test: MapBatch, classes=(0, 3, 7)):
    return linear_segmentation(encode, [train], [test], classes=classes, image_px=SIDE)


def test_separable_classes():
    """Interpolated scores change class half-way between patches, where the map does."""
    found = run(batch(ALL), batch(ALL[:1]))
    assert found.miou == 1 and found.iou == {0: 1.0, 3: 1.0, 7: 1.0}


def test_what_the_features_do_not_tell():
    """Level 20 is class 2 in one image and class 1 in three: it is class 1, by least squares."""
    same = np.full((4, 4, 4), 2)
    mixed = batch(same)
    mixed["segmentation"][1:] = 1
    found = run(mixed, mixed, classes=(1, 2))
    assert found.iou == {1: pytest.approx(0.75), 2: 0.0} and found.miou == pytest.approx(0.375)


def test_ignored_classes_count_nowhere():
    """In neither part: the features of class 3 would have ruined class 0's scores."""
    assert run(batch(ALL), batch(ALL), classes=(0, 7)).iou == {0: 1.0, 7: 1.0}
    mixed = batch(ALL)
    mixed["segmentation"][:] = np.where(mixed["segmentation"] == 3, 0, mixed["segmentation"])
    worse = run(mixed, batch(ALL), classes=(0, 7)).iou
    assert worse == {0: 1.0, 7: 1.0}  # of class 3 no pixel is scored


def test_images_without_maps_are_left_out():
    wrong = np.concatenate([ALL, 7 - ALL])
    found = run(batch(wrong, [True, True, False, False]), batch(wrong, [True, True, False, False]))
    assert found.miou == 1


def test_one_pixel_in_a_patch_is_enough_and_weighs_as_one():
    """Class 7 on 3 of the 16 pixels of every patch of level 0: 13 pixels outvote them."""
    train = batch(np.zeros((1, 4, 4), int))
    train["segmentation"][0, ::PATCH, :3:1] = 7
    train["segmentation"][0, ::PATCH, 3:] = 0
    found = run(train, batch(np.zeros((1, 4, 4), int)), classes=(0, 7))
    assert found.iou == {0: 1.0}


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="classes is empty"):
        run(batch(ALL), batch(ALL), classes=())
    with pytest.raises(ValueError, match="no training images"):
        linear_segmentation(encode, [], [], classes=(0,), image_px=SIDE)
    with pytest.raises(ValueError, match="no samples to fit"):
        run(batch(ALL), batch(ALL), classes=(9,))
    with pytest.raises(ValueError, match="held-out images have no labelled pixel"):
        run(batch(ALL), batch(ALL, [False, False]))
