"""Limits on records, and where they would make scores of something else."""

import numpy as np
import pytest

from dinojax.config import Config
from dinojax.config.data import DataConfig
from dinojax.config.evaluation import RecordsConfig
from dinojax.data.eval_records import EvalRecords, Judged
from dinojax.data.scenes import ScenesSource
from dinojax.eval_records import evaluated, open_eval_records

NONE = np.zeros(0, np.int64)


@pytest.fixture
def opened(monkeypatch):
    """``(judged or not, options) -> records`` of 12 training and 6 test scenes."""

    def open_(judged: bool, *, videos: bool = False, **options: int) -> EvalRecords:
        asked = tuple(Judged(np.array([i]), NONE, NONE) for i in range(6))
        given = EvalRecords(
            ScenesSource(12, image_px=32),
            ScenesSource(6, image_px=32, split="test"),
            judged=asked if judged else None,
        )
        monkeypatch.setattr("dinojax.eval_records.open_layout", lambda *_: given)
        limits = RecordsConfig(layout="x", **options)
        return open_eval_records(Config(), limits, "there", videos=videos)

    return open_


def test_judgements_go_with_their_queries(opened):
    found = opened(True, max_train=0, max_test=3)
    assert len(found.test) == 3
    assert [one.easy.tolist() for one in found.judged] == [[0], [2], [4]]
    ids = [found.test.record_id(i) for i in range(3)]
    assert [int(name.rpartition("/")[2]) for name in ids] == [0, 2, 4]


def test_judged_images_are_not_thinned(opened):
    assert len(opened(False, max_train=5).train) == 5
    with pytest.raises(ValueError, match=r"judged by all 12 images, not by records\.max_train=5"):
        opened(True, max_train=5)


def test_videos_are_not_thinned(opened):
    assert len(opened(False, max_test=5).test) == 5
    with pytest.raises(ValueError, match=r"max_test=5 of 6 frames would not be whole videos"):
        opened(False, videos=True, max_test=5)


def test_other_records_have_a_share_of_their_own():
    """Those of the run stay split as it split them, however small that share."""
    run = Config(data=DataConfig(holdout=0.0001))
    assert evaluated(run, None, 32).data.holdout == 0.0001
    records = open_eval_records(evaluated(run, "scenes:60", 32), RecordsConfig(), "scenes:60")
    assert (len(records.train), len(records.test)) == (56, 4)
    for holdout, words in ((0.0001, "of 60 records .* use"), (1.5, "must lie .* use 0.1")):
        given = evaluated(run, "scenes:60", 32, holdout)
        with pytest.raises(ValueError, match=rf"^records\.holdout={holdout} {words}"):
            open_eval_records(given, RecordsConfig(holdout=holdout), "scenes:60")
