"""`scenes`: records are pure functions of (seed, split, index); the class is hidden but learnable.

Chance is 0.10 throughout. Every "must not tell" bound is an accuracy that simple statistics stay
below; the descriptor at the end shows that the same images do hold the class.
"""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dinojax
from dinojax.data.records import Record
from dinojax.data.scenes import CLASSES, SILHOUETTES, ScenesSource

CHANCE = 0.1


def digest(source: ScenesSource, indices: list[int]) -> str:
    records = [source[i] for i in indices]
    parts = [
        (r.id, r.label, r.image.tobytes(), r.segmentation.tobytes(), r.depth.tobytes())
        for r in records
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@pytest.fixture(scope="module")
def train() -> list[Record]:
    return list(ScenesSource(2000))


@pytest.fixture(scope="module")
def test() -> list[Record]:
    return list(ScenesSource(500, split="test"))


def images(records: list[Record]) -> np.ndarray:
    return np.stack([r.image for r in records]).astype(np.float32) / 255


def labels(records: list[Record]) -> np.ndarray:
    return np.array([r.label for r in records])


def vote(similarity: np.ndarray, bank: np.ndarray, truth: np.ndarray) -> float:
    """Best accuracy of a majority vote over 10 or 20 neighbours, similarity [test, train]."""
    ranked = bank[np.argsort(-similarity, axis=1)[:, :20]]
    votes = [np.eye(10)[ranked[:, :k]].sum(axis=1).argmax(axis=1) for k in (10, 20)]
    return max((guess == truth).mean() for guess in votes)


def knn(bank: np.ndarray, queries: np.ndarray, train: list[Record], test: list[Record]) -> float:
    """Nearest neighbours in standardised features, Euclidean."""
    mean, std = bank.mean(axis=0), bank.std(axis=0) + 1e-6
    a, b = (bank - mean) / std, (queries - mean) / std
    return vote(2 * b @ a.T - (a**2).sum(axis=1), labels(train), labels(test))


# ---- A record is a pure function of (seed, split, index).


def test_same_record_twice_and_in_another_process():
    indices = [0, 7, 123_456_789]
    code = (
        "from test_scenes import digest, ScenesSource;"
        f"print(digest(ScenesSource(10**9, seed=3, split='test'), {indices}))"
    )
    roots = [str(Path(dinojax.__file__).parents[1]), str(Path(__file__).parent)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(roots)}
    other = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, check=True, text=True
    )
    source = ScenesSource(10**9, seed=3, split="test")
    assert digest(source, indices) == digest(source, indices) == other.stdout.strip()


def test_a_record_does_not_depend_on_the_length_or_on_earlier_records():
    long, short = ScenesSource(1000), ScenesSource(6)
    for i in range(5):
        long[i]
    assert digest(long, [5]) == digest(short, [5])


def test_seeds_splits_and_indices_are_different_draws():
    sources = [ScenesSource(50, seed=s, split=p) for s in (0, 1) for p in ("train", "test")]
    assert len({r.image.tobytes() for source in sources for r in source}) == 200


def test_image_px_only_changes_the_resolution():
    for fine, coarse in zip(
        ScenesSource(20, image_px=128), ScenesSource(20, image_px=64), strict=True
    ):
        pooled = fine.image.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert fine.label == coarse.label
        assert np.corrcoef(pooled.ravel(), coarse.image.ravel())[0, 1] > 0.95
        assert np.median(np.abs(fine.depth[::2, ::2] / coarse.depth - 1)) < 0.02


def test_pickles_small_and_equal():
    source = ScenesSource(10**6, image_px=48, num_classes=4, seed=5, split="test")
    stored = pickle.dumps(source)
    assert len(stored) < 500
    assert digest(pickle.loads(stored), [9]) == digest(source, [9])


# ---- What a record holds.


def test_shapes_dtypes_and_ids():
    source = ScenesSource(3, image_px=40, num_classes=30, split="test")
    assert [r.id for r in source] == [
        "scenes/test/000000",
        "scenes/test/000001",
        "scenes/test/000002",
    ]
    for r in source:
        assert (r.image.shape, r.image.dtype) == ((40, 40, 3), np.uint8)
        assert (r.segmentation.shape, r.segmentation.dtype) == ((40, 40), np.uint8)
        assert (r.depth.shape, r.depth.dtype) == ((40, 40), np.float32)
        assert source[np.int64(0)].id == source[0].id


@pytest.mark.slow
def test_the_mask_holds_objects_of_one_class_and_they_are_in_front(train):
    for r in train:
        inside = r.segmentation > 0
        assert set(np.unique(r.segmentation)) == {0, 1 + r.label}
        assert 0.15 < inside.mean() < 0.75
        assert r.depth.min() > 0 and r.depth.max() < 15
        assert r.depth[inside].max() < r.depth[~inside].min()


def test_object_and_background_have_contrast(train):
    """Luminance varies within the object and outside it, so that grey crops still show textures."""
    for r in train:
        grey, inside = r.image.mean(axis=-1), r.segmentation > 0
        assert grey[inside].std() > 10
        assert grey.std() > 10


def test_classes_are_distinct_pairs():
    assert len(set(CLASSES)) == len(CLASSES) == 30
    names = ScenesSource(1, num_classes=30).class_names
    assert (
        len(set(names)) == 30
        and names[0] == "striped bow"
        and len(ScenesSource(1).class_names) == 10
    )
    assert {r.label for r in ScenesSource(300, image_px=32, num_classes=30)} == set(range(30))


@pytest.mark.parametrize("silhouette", SILHOUETTES)
def test_silhouettes_have_the_area_of_the_unit_disc(silhouette):
    side = np.linspace(-2, 2, 400, dtype=np.float32)
    x, y = np.meshgrid(side, side)
    area = np.mean([(silhouette(x, y, girth) > 0).mean() * 16 for girth in (-1.0, 0.0, 1.0)])
    assert abs(area / np.pi - 1) < 0.1


# ---- The class is not to be had cheaply.


def test_classes_are_equally_frequent_and_the_index_does_not_tell(train, test):
    bank, truth = labels(train), labels(test)
    assert np.abs(np.bincount(bank, minlength=10) - 200).max() < 4 * np.sqrt(2000 * 0.1 * 0.9)
    for period in (2, 3, 5, 7, 10, 16, 20, 64):
        habit = [np.bincount(bank[r::period]).argmax() for r in range(period)]
        assert (np.resize(habit, len(truth)) == truth).mean() < 1.5 * CHANCE
    assert (bank[1:] == bank[:-1]).mean() < 1.3 * CHANCE


@pytest.mark.parametrize("axes", [(0,), (1, 2)], ids=["minus_mean_image", "minus_own_colour"])
def test_raw_pixels_do_not_tell(train, test, axes):
    bank, queries = (
        z.reshape(-1, 32, 2, 32, 2, 3).mean(axis=(2, 4)) for z in (images(train), images(test))
    )
    unit = []
    for z in (bank, queries):
        z = (z - (bank if axes == (0,) else z).mean(axis=axes, keepdims=True)).reshape(len(z), -1)
        unit.append(z / np.linalg.norm(z, axis=1, keepdims=True))
    assert vote(unit[1] @ unit[0].T, labels(train), labels(test)) < 2 * CHANCE


def colours(r: Record) -> np.ndarray:
    return np.concatenate([r.image.mean(axis=(0, 1)), r.image.std(axis=(0, 1))])


def background_colours(r: Record) -> np.ndarray:
    pixels = r.image[r.segmentation == 0]
    return np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)])


def object_colours(r: Record) -> np.ndarray:
    pixels = r.image[r.segmentation > 0]
    return np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)])


def geometry(r: Record) -> np.ndarray:
    y, x = np.nonzero(r.segmentation)
    return np.array([y.mean(), x.mean(), y.min(), y.max(), x.min(), x.max(), len(x)])


def area(r: Record) -> np.ndarray:
    return np.array([(r.segmentation > 0).sum()])


def depths(r: Record) -> np.ndarray:
    return np.array([r.depth.mean()])


@pytest.mark.parametrize(
    "measure", [colours, background_colours, object_colours, geometry, area, depths]
)
def test_simple_statistics_do_not_tell(train, test, measure):
    bank, queries = (np.stack([measure(r) for r in z]).astype(np.float64) for z in (train, test))
    assert knn(bank, queries, train, test) < 1.6 * CHANCE


def test_untrained_filters_tell_little(train, test):
    """Rectified random filters on 8 px patches, pooled over the image: texture energy by chance."""
    filters = np.random.default_rng(0).standard_normal((192, 256)).astype(np.float32)

    def respond(z: np.ndarray) -> np.ndarray:
        patches = ((z - 0.4) / 0.25).reshape(-1, 8, 8, 8, 8, 3).swapaxes(2, 3)
        return np.maximum(patches.reshape(len(z), 64, 192) @ filters, 0).mean(axis=1)

    assert knn(respond(images(train)), respond(images(test)), train, test) < 3 * CHANCE


# ---- And yet it is there.


def directions(z: np.ndarray) -> np.ndarray:
    """How spectral energy is shared between directions, [B, features].

    In 16 px Hann windows the power spectrum is binned by radius and angle and divided by its sum
    (contrast, colour and polarity drop out); the magnitudes of its Fourier transform over the angle
    do not see rotation or flips; means over the windows do not see place.
    """
    side, angles = 16, 12
    grey = z.mean(axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(grey, (side, side), axis=(1, 2))[:, ::8, ::8]
    windows = windows - windows.mean(axis=(-2, -1), keepdims=True)
    hann = np.hanning(side).astype(np.float32)
    power = np.abs(np.fft.rfft2(windows * hann[:, None] * hann)) ** 2
    fy, fx = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    radius, angle = np.hypot(fx, fy), np.arctan2(fy, fx)
    bins = [
        np.maximum(1 - np.abs((angle - centre + np.pi / 2) % np.pi - np.pi / 2) * angles / np.pi, 0)
        * ((radius >= low) & (radius < high))
        for low, high in ((0.05, 0.12), (0.12, 0.2), (0.2, 0.35))
        for centre in np.arange(angles) * np.pi / angles
    ]
    energy = power.reshape(*power.shape[:3], -1) @ np.stack(bins).reshape(len(bins), -1).T.astype(
        np.float32
    )
    share = energy / (energy.sum(axis=-1, keepdims=True) + 1e-3)
    shape = np.abs(np.fft.rfft(share.reshape(*share.shape[:3], 3, angles)))
    shape = shape.reshape(*share.shape[:3], -1)
    return np.concatenate([shape.mean(axis=(1, 2)), (shape**2).mean(axis=(1, 2))], axis=1)


@pytest.fixture(scope="module")
def bank(train) -> np.ndarray:
    return directions(images(train))


def test_local_texture_tells(train, test, bank):
    assert knn(bank, directions(images(test)), train, test) > 3 * CHANCE


def test_the_class_survives_flips_crops_and_colour_changes(train, test, bank):
    """Views like those of pretraining are still recognised, against an unaltered bank."""
    views = images(test)[:, 6:58, 6:58][:, :, ::-1] * np.float32([0.6, 0.9, 0.4])
    views = (1 - views)[..., [2, 0, 1]].mean(axis=-1, keepdims=True)
    assert knn(bank, directions(views), train, test) > 3 * CHANCE


# ---- Boundaries.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, "num_images=0 must be at least 1; use"),
        ({"image_px": 16}, "image_px=16 must be at least 32; use 64"),
        ({"num_classes": 1}, r"num_classes=1 must be 2\.\.30; use 10"),
        ({"num_classes": 31}, r"num_classes=31 must be 2\.\.30; use 10"),
        ({"seed": -1}, "seed=-1 must not be negative; use 0"),
        ({"split": "val"}, "split='val' must be one of .*; use 'train'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ScenesSource(**({"num_images": 10} | arguments))


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_outside_the_source_is_refused(index):
    with pytest.raises(IndexError, match=rf"index={index} must lie in 0\.\.9"):
        ScenesSource(10)[index]
