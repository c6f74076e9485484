"""Statistics over records: exact, in any order."""

import json

import numpy as np
import pytest

from dinojax.data.tally import Tally, histogram_of

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (h, 7, 3)).astype(np.uint8) for h in (3, 5, 11)]


def test_mean_and_std_over_all_pixels():
    tally = sum((Tally(histogram=histogram_of(image)) for image in IMAGES), Tally())
    pixels = np.concatenate([image.reshape(-1, 3) for image in IMAGES]) / 255
    np.testing.assert_allclose(tally.mean(), pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(tally.std(), pixels.std(0), rtol=1e-12)


def test_constant_channels():
    image = np.full((4, 4, 2), [0, 255], np.uint8)
    tally = Tally(histogram=histogram_of(image))
    assert tally.mean() == [0, 1] and tally.std() == [0, 0]


def test_sum():
    first = Tally(records=2, content_bytes=10, reencoded=1, segmentations=1, classes=9, labels=3)
    second = Tally(records=1, content_bytes=5, depths=1, classes=4, labels=7)
    total = first + second
    assert (total.records, total.content_bytes, total.reencoded) == (3, 15, 1)
    assert (total.segmentations, total.depths, total.classes, total.labels) == (1, 1, 9, 7)


def test_survives_json():
    tally = Tally(records=3, histogram=histogram_of(IMAGES[0]))
    copy = Tally.from_json(json.loads(json.dumps(tally.to_json())))
    assert copy.to_json() == tally.to_json()
    assert Tally.from_json(Tally().to_json()).histogram.shape == (0, 256)


def test_images_of_different_channels():
    grey = Tally(histogram=histogram_of(IMAGES[0][..., :1]))
    with pytest.raises(ValueError, match=r"images of 3 and of 1 channels in one source; split it"):
        Tally(histogram=histogram_of(IMAGES[0])) + grey
