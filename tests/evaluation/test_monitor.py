"""The kNN monitor: which records it looks at, and what it reports when."""

import math
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.data.records import Record
from dinojax.evaluation.monitor import KnnMonitor, evenly


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


def monitor(encode, *, good: int | None = None, **options) -> KnnMonitor:
    given = {"num_classes": 2, "canvas_px": 8, "batch_size": 4, "read_timeout_s": 60.0}
    given = {**given, "k": 3, "temperature": 0.07, **options}
    return KnnMonitor(encode, Colours(22, 0), Colours(9, 1, good), **given)


def encode(params, canvas, size):
    """An angle that goes with the red channel, if the teacher's parameter says so."""
    angle = params["gain"] * (canvas[:, 0, 0, 0].astype(jnp.float32) - 101)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def state(gain: float) -> SimpleNamespace:
    return SimpleNamespace(
        teacher={"backbone": {"gain": jnp.float32(gain)}}, student={"backbone": {"gain": None}}
    )


def test_scores_the_teacher_and_the_pixels_once():
    score = monitor(encode)
    first = score(state(1.0))
    assert set(first) == {"knn", "knn_pixels"} and first["knn"] == 1.0
    assert 0 <= first["knn_pixels"] < 1
    # Equal features: the first three of the bank, classes 0, 1, 0, outvote every query's class.
    assert score(state(0.0)) == {"knn": pytest.approx(5 / 9)}


def test_a_small_bank_lowers_k():
    assert monitor(encode, k=500, temperature=0.01)(state(1.0))["knn"] == 1.0


@pytest.mark.parametrize(("good", "expected"), [(2, 0.5), (0, math.nan)])
def test_unreadable_queries_are_left_out(good, expected):
    """Of equal features the bank's first three decide: right for one of two queries."""
    scores = monitor(encode, good=good)(state(0.0))
    assert scores["knn"] == pytest.approx(expected, nan_ok=True)
