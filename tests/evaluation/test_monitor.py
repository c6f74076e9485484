"""The monitor of features: which records it looks at, how often, and what it reports of them."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.data.records import Record
from dinojax.evaluation.monitor import PIXELS, FeatureMonitor, Network, chance, evenly, repeated
from dinojax.evaluation.neighbours import nearest_distances
from dinojax.evaluation.spectrum import alpha_req, rankme
from dinojax.evaluation.watched import Watched

NAMES = {"nn_distance_q10", "nn_distance_q50", "rankme", "alpha_req"}
NAMES |= {"locality", "drift", "patch_norm_outliers"}


class Colours:
    """8x8 images; the red channel tells the class, noise in green fills the raw pixels.

    From record `good` on there is nothing that can be decoded.
    """

    def __init__(self, count: int, seed: int, good: int | None = None):
        self.class_names = ["dark", "bright"]
        self.good = count if good is None else good
        self.noise = np.random.default_rng(seed).integers(0, 256, (count, 8, 8), np.uint8)

    def __len__(self) -> int:
        return len(self.noise)

    def __getitem__(self, index: int) -> Record:
        if index >= self.good:
            return Record(image=b"no image", id=self.record_id(index), label=index % 2)
        image = np.zeros((8, 8, 3), np.uint8)
        image[..., 0] = 100 + 2 * (index % 2)
        image[..., 1] = self.noise[index]
        return Record(image=image, id=self.record_id(index), label=index % 2)

    def record_id(self, index: int) -> str:
        return str(index)


@pytest.mark.parametrize(("count", "limit"), [(10, 4), (10, 3), (1000, 7), (5, 5), (3, 8)])
def test_evenly(count, limit):
    part = evenly(Colours(count, 0), limit)
    ids = [int(part.record_id(i)) for i in range(len(part))]
    assert len(ids) == min(count, limit) and ids[0] == 0
    gaps = np.diff([*ids, count])
    assert gaps.min() >= 1 and np.ptp(gaps) <= 1


class Encoder:
    """An angle that goes with the red channel, if the parameter says so; and how often it ran."""

    def __init__(self):
        self.calls = 0

    def __call__(self, gain: float, canvas: np.ndarray, size: np.ndarray) -> Watched:
        self.calls += 1
        red, green = (canvas[:, :, :, i].mean(axis=(1, 2)) for i in (0, 1))
        angle = jnp.asarray(gain * (red - 101), jnp.float32)
        cls = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        green = jnp.asarray(green, jnp.float32)
        return Watched(cls, 2 * cls, green, -green, green / 255)


def monitor(*, labels: bool = True, good: int | None = None, **options) -> FeatureMonitor:
    reading = {"batch": 4, "canvas_px": 8, "read_timeout_s": 60.0}
    given = {"k": 3, "temperature": 0.07, "ridge": 1e-3, **options}
    bank = Colours(22, 0) if labels else None
    return FeatureMonitor(bank, Colours(9, 1, good), reading=reading, **given)


def test_every_network_sees_every_image_once():
    one, other, some = Encoder(), Encoder(), Encoder()
    networks = {
        "one": Network(one, 1.0),
        "other": Network(other, 0.0),
        "some": Network(some, 1.0, most=5),
    }
    scores, tokens = monitor()(networks, pixels=True, rows=6)
    assert one.calls == other.calls == math.ceil(22 / 4) + math.ceil(9 / 4)
    assert some.calls == 2  # of the held-out images as many as are asked for
    assert set(scores) == {"one", "other", PIXELS}
    assert set(scores["one"]) == set(scores["other"]) == NAMES | {"knn", "linear"}
    assert set(scores[PIXELS]) == {"knn", "chance", "repeated"}
    assert scores["one"]["knn"] == scores["one"]["linear"] == 1
    assert 0 <= scores[PIXELS]["knn"] < 1 and scores[PIXELS]["repeated"] == 0
    # Equal features: the first three of the bank, classes 0, 1, 0, outvote every query's class.
    assert scores["other"]["knn"] == pytest.approx(5 / 9)
    assert tokens["one"].cls.shape == (6, 2) and tokens["other"].cls.shape == (6, 2)
    np.testing.assert_allclose(tokens["one"].patch, 2 * tokens["one"].cls)
    np.testing.assert_allclose(tokens["some"].cls, tokens["one"].cls)


def test_measures_are_of_the_held_out_images():
    held_out = Colours(9, 1)
    images = np.stack([held_out[i].image for i in range(9)])
    expected = Encoder()(1.0, images, np.full((9, 2), 8))
    cls = np.asarray(expected.cls)
    (scores,) = monitor()({"one": Network(Encoder(), 1.0)}, pixels=False)[0].values()
    assert scores["locality"] == pytest.approx(float(expected.locality.mean()), rel=1e-5)
    assert scores["drift"] == pytest.approx(-scores["locality"])
    assert scores["rankme"] == pytest.approx(rankme(cls), rel=1e-5)
    assert scores["alpha_req"] == pytest.approx(alpha_req(cls), nan_ok=True)
    distances = np.asarray(nearest_distances(cls))
    assert scores["nn_distance_q10"] == pytest.approx(np.quantile(distances, 0.1), abs=1e-6)


def test_without_labels_all_but_two():
    encode = Encoder()
    scores, _ = monitor(labels=False)({"one": Network(encode, 1.0)}, pixels=True)
    assert set(scores["one"]) == NAMES and set(scores[PIXELS]) == {"repeated"}
    assert encode.calls == math.ceil(9 / 4)  # nothing needs a bank


def test_records_without_a_class_have_no_say(monkeypatch):
    """Of both, every third is -1: all that are left are right."""

    def some(self, index):
        record = read(self, index)
        return dataclasses.replace(record, label=-1) if index % 3 == 0 else record

    read = Colours.__getitem__
    monkeypatch.setattr(Colours, "__getitem__", some)
    scores, _ = monitor()({"one": Network(Encoder(), 1.0)}, pixels=True)
    assert scores["one"]["knn"] == scores["one"]["linear"] == 1
    assert 0.5 < scores[PIXELS]["chance"] < 1.1


def test_a_small_bank_lowers_k():
    scores, _ = monitor(k=500, temperature=0.01)({"one": Network(Encoder(), 1.0)}, pixels=False)
    assert scores["one"]["knn"] == 1.0


@pytest.mark.parametrize(("good", "expected"), [(2, 0.5), (0, math.nan)])
def test_unreadable_records_are_left_out(good, expected):
    """Of equal features the bank's first three decide: right for one of two queries."""
    scores, tokens = monitor(good=good)({"one": Network(Encoder(), 0.0)}, pixels=True, rows=9)
    assert scores["one"]["knn"] == pytest.approx(expected, nan_ok=True)
    assert set(scores["one"]) == NAMES | {"knn", "linear"}
    assert len(tokens["one"].cls) == good
    if not good:
        assert all(math.isnan(value) for value in scores["one"].values())


def test_chance_is_what_guesses_stay_below():
    labels = np.random.default_rng(0).integers(0, 10, 400)
    share = np.bincount(labels).max() / 400
    assert chance(labels) == pytest.approx(share + 2 * math.sqrt(share * (1 - share) / 400))
    guesses = np.random.default_rng(1).integers(0, 10, (1000, 400))
    assert ((guesses == labels).mean(axis=1) < chance(labels)).mean() > 0.97
    assert chance(np.zeros(7, int)) == 1


def test_repeated_images():
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(8, 12)).astype(np.float32)
    assert repeated(pixels) == 0
    assert repeated(np.concatenate([pixels, pixels[:2]])) == pytest.approx(0.2)
    # Images of one colour have no pattern, whatever the colour: only rounding.
    flat = 1e-6 * rng.normal(size=(8, 12)).astype(np.float32)
    assert repeated(flat) == pytest.approx(7 / 8)
