"""Boxes and their agreement, on small cases."""

import numpy as np
import pytest

from dinojax.evaluation.object_boxes import box_iou, corloc, map_boxes, region_box


def test_boxes_of_a_map():
    """Two regions of class 2, one of class 5; class 0 is the ground, 255 unlabelled."""
    map = np.zeros((6, 8), np.int32)
    map[1:3, 1:4] = 2
    map[4:6, 5:8] = 2
    map[0, 7] = 5
    map[5, 0] = 255
    found = map_boxes(map, ignored=(0, 255), least_pixels=1)
    assert sorted(found) == [(0, 7, 1, 8), (1, 1, 3, 4), (4, 5, 6, 8)]
    assert len(map_boxes(map, ignored=(0, 255), least_pixels=2)) == 2
    assert (0, 0, 6, 8) in map_boxes(map, ignored=(255,), least_pixels=1)


def test_the_region_around_a_patch():
    """Patches that touch at a corner are apart."""
    mask = np.array([[1, 1, 0], [0, 0, 1], [0, 1, 1]], bool)
    assert region_box(mask, (0, 1), 8.0) == (0, 0, 8, 16)
    assert region_box(mask, (2, 2), 8.0) == (8, 8, 24, 24)
    with pytest.raises(ValueError, match=r"place=\(1, 0\) is not in the mask"):
        region_box(mask, (1, 0), 8.0)


def test_iou():
    assert box_iou((0.0, 0.0, 2.0, 4.0), (1.0, 2.0, 3.0, 6.0)) == pytest.approx(2 / 14)
    assert box_iou((0.0, 0.0, 1.0, 1.0), (2.0, 2.0, 3.0, 3.0)) == 0
    assert box_iou((0.0, 0.0, 3.0, 3.0), (0.0, 0.0, 3.0, 3.0)) == 1


def test_corloc():
    """Exactly half overlaps; one hit of several; one miss; one image without objects."""
    whole = (0.0, 0.0, 4.0, 4.0)
    true = [[(0.0, 0.0, 2.0, 4.0)], [(9.0, 9.0, 10.0, 10.0), whole], [(0.0, 0.0, 1.0, 4.0)], []]
    assert corloc([whole] * 4, true) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no image has an object"):
        corloc([whole], [[]])
