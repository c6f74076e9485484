"""Sliding windows against the published way, which holds every map of every size."""

import numpy as np
import pytest

from dinojax.evaluation.sliding import Windows, join_matrix, window_starts


def bilinear(x: np.ndarray, out: int) -> np.ndarray:
    """Along the first axis, half-pixel centres, borders repeated: `interpolate` of PyTorch."""
    places = np.clip((np.arange(out) + 0.5) * len(x) / out - 0.5, 0, len(x) - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, len(x) - 1)
    share = (places - low).reshape(-1, *[1] * (x.ndim - 1))
    return (1 - share) * x[low] + share * x[high]


def resize(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return bilinear(bilinear(x, rows).swapaxes(0, 1), columns).swapaxes(0, 1)


def test_windows():
    assert window_starts(512, 512, 341) == [0]
    assert window_starts(683, 512, 341) == [0, 171]  # flush with the end
    assert window_starts(853, 512, 341) == [0, 341]
    assert window_starts(854, 512, 341) == [0, 341, 342]
    assert window_starts(300, 512, 341) == [0]
    with pytest.raises(ValueError, match=r"stride=600 must lie in 1\.\.512"):
        window_starts(683, 512, 600)


def test_joining_equals_the_maps():
    """Windows of 8 pixels with 3 x 3 patches over a 10 x 14 image, shown at 7 x 9 pixels."""
    rng = np.random.default_rng(0)
    starts = window_starts(10, 8, 5), window_starts(14, 8, 5)
    assert starts == ([0, 2], [0, 5, 6])
    patches = rng.normal(size=(2, 3, 3, 3, 4))  # windows, patches, classes
    total, times = np.zeros((10, 14, 4)), np.zeros((10, 14, 1))
    for i, top in enumerate(starts[0]):
        for j, left in enumerate(starts[1]):
            here = np.s_[top : top + 8, left : left + 8]
            total[here] += resize(patches[i, j], 8, 8)
            times[here] += 1
    expected = resize(total / times, 7, 9)
    rows, columns = join_matrix(7, 10, starts[0], 8, 3), join_matrix(9, 14, starts[1], 8, 3)
    wide = patches.transpose(0, 2, 1, 3, 4).reshape(6, 9, 4)
    found = np.einsum("yr,rck,xc->yxk", rows, wide, columns)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_window_larger_than_the_image():
    """Padding ends at the border: only the patches that cover the image count."""
    matrix = join_matrix(4, 4, window_starts(4, 8, 8), 8, 2)
    expected = bilinear(np.eye(2), 8)[:4]
    np.testing.assert_allclose(matrix, expected)


def test_gaps_are_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match=r"stride=600 must lie in 1\.\.512"):
        Windows(stride_px=600)
