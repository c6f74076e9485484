"""Cosines, by hand; and the same from the bytes that a page carries."""

import numpy as np
import pytest

from dinojax.pictures.clicks import pack
from dinojax.pictures.similarity import cosine_map, nearest


def test_cosine_map():
    patches = np.array([[[[1.0, 0], [0, 2]]], [[[3, 3], [-1, 0]]]])
    half = 2**-0.5
    np.testing.assert_allclose(cosine_map(patches, 0, 0, 0), [[[1, 0]], [[half, -1]]], atol=1e-7)
    np.testing.assert_allclose(cosine_map(patches, 1, 0, 0), [[[half, half]], [[1, -half]]])
    with pytest.raises(ValueError, match=r"row 1, column 0.* of image 0 is outside 2 images"):
        cosine_map(patches, 0, 1, 0)


def test_nearest():
    """By angle, not by length; without the query itself, also where it has a twin."""
    gallery = np.array([[1.0, 0], [10, 1], [0, 1], [-1, 0], [2, 0]])
    places, cosines = nearest(gallery[:1], gallery, 3, own=np.array([0]))
    assert places.tolist() == [[4, 1, 2]]
    np.testing.assert_allclose(cosines, [[1, 10 / 101**0.5, 0]])
    everything, _ = nearest(gallery[:1], gallery, 9)
    assert everything.tolist() == [[0, 4, 1, 2, 3]]
    assert nearest(gallery[:1], gallery, 9, own=np.array([0]))[0].shape == (1, 4)


@pytest.mark.parametrize(("width", "tolerance"), [(64, 0.01), (200, 0.05)])
def test_packed_cosines_are_those_of_the_features(width, tolerance):
    """Also of features wider than what is kept, if they are as correlated as real ones."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(40, width)) / np.arange(1, 41)[:, None]
    patches = (rng.normal(size=(2, 5, 6, 40)) @ basis).astype(np.float32)
    packed = pack(patches)
    assert packed.values.dtype == np.int8 and packed.values.shape[-1] == min(width, 128)
    assert packed.kept > 0.999
    expected = cosine_map(patches, 1, 2, 3)
    found = cosine_map(packed.values.astype(np.float32), 1, 2, 3)
    assert np.abs(found - expected).max() < tolerance
