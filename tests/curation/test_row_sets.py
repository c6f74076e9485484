"""Rows that a stage sorts: once, for as long as it takes, and never for another stage's folder."""

import numpy as np
import pytest
from feature_files import ROWS, written

from dinojax.curation import row_sets as module
from dinojax.curation.embeddings import RowsOptions
from dinojax.curation.row_sets import claim_rows, drop_sets, list_set
from dinojax.curation.stage_folder import finish


@pytest.fixture
def sets(tmp_path):
    folders = [written(tmp_path / "a"), written(tmp_path / "b", rows=2 * ROWS)]
    return [list_set(RowsOptions(str(folder)), f"dedup.{folder.name}") for folder in folders]


def named(keys):
    return {"rows": keys[0], "others": keys[1:]}


def test_they_are_there_until_the_stage_is_done(sets, tmp_path, monkeypatch):
    work = tmp_path / "dedup"
    report, (own, other) = claim_rows(work, {"seed": 0}, sets, named)
    assert report is None
    np.testing.assert_array_equal(2 * own[:], other[:])
    monkeypatch.setattr(module, "sort_rows", None)  # not again
    report, (own, _) = claim_rows(work, {"seed": 0}, sets, named)
    assert report is None and own.shape == (10, 3)
    done = finish(work, {}, [])
    drop_sets(work)
    left = {path.name for path in (tmp_path / "dedup_rows").rglob("*") if path.is_file()}
    assert left == {"sorted.json"}
    assert claim_rows(work, {"seed": 0}, sets, named).report == done


def test_others_are_refused(sets, tmp_path, monkeypatch):
    """Without sorting, if it is known without it; else what was sorted goes."""
    work = tmp_path / "dedup"
    claim_rows(work, {"seed": 0}, sets, named)
    with pytest.raises(ValueError, match=r"is of other inputs: others was .*; give another"):
        claim_rows(work, {"seed": 0}, [sets[0], sets[0]], named)
    shelf = tmp_path / "dedup_rows"
    assert [path.name for path in shelf.iterdir()] == ["0"]
    monkeypatch.setattr(module, "sort_rows", None)
    with pytest.raises(ValueError, match="is of other inputs: seed was 0 and is 1; give another"):
        claim_rows(work, {"seed": 1}, sets, named)
