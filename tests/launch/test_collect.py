"""The table of results: rows, columns, order, formats."""

import csv
import io
import json

import pytest
from collect import FORMATS, collect


def write_run(workdir, seed, rate, **summary):
    config = {"train": {"seed": seed, "steps": 3}, "optim": {"lr": {"peak": rate}}}
    contract = {
        "config": config,
        "config_hash": "",
        "data_fingerprint": {},
        "versions": {},
        "history": [],
    }
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(contract))
    if summary:
        (workdir / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def root(tmp_path):
    write_run(tmp_path / "a", 0, 1e-3, knn=0.25, loss=3.0)
    write_run(tmp_path / "b", 1, 1e-3)
    write_run(tmp_path / "more" / "c", 0, 0.123456789, knn=0.5, loss=None)
    write_run(tmp_path / "d", 0, 2e-3, knn=0.125, loss=2.0)
    return tmp_path


def test_rows_hold_what_differs_and_how_it_ended(root):
    rows = collect(root, "knn")
    assert rows[0] == {
        **{"run": "more/c", "optim.lr.peak": 0.123456789, "train.seed": 0},
        **{"knn": 0.5, "loss": None},
    }
    assert rows[-1] == {
        **{"run": "b", "optim.lr.peak": 1e-3, "train.seed": 1, "knn": None, "loss": None}
    }
    assert all(row.keys() == rows[0].keys() for row in rows)


def test_the_best_come_first_and_the_unfinished_last(root):
    assert [row["run"] for row in collect(root, "knn")] == ["more/c", "a", "d", "b"]
    assert [row["run"] for row in collect(root, "-knn")] == ["d", "a", "more/c", "b"]
    assert [row["run"] for row in collect(root, "-loss")][:2] == ["d", "a"]


def test_files_of_the_same_name_are_no_runs(root):
    before = collect(root, "knn")
    (root / "a" / "export").mkdir()
    (root / "a" / "export" / "config.json").write_text('{"model_type": "dinov3_vit"}')
    assert collect(root, "knn") == before


def test_a_damaged_run_is_named(root):
    path = root / "a" / "config.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ValueError, match=r"a/config.json is damaged"):
        collect(root, "knn")


def test_refusals(root, tmp_path):
    with pytest.raises(ValueError, match=r"metric 'kn' .*use one of \['knn', 'loss'\]"):
        collect(root, "kn")
    with pytest.raises(ValueError, match="no run below"):
        collect(tmp_path / "more" / "c" / "checkpoints", "knn")


def test_before_any_run_has_finished(tmp_path):
    write_run(tmp_path / "a", 0, 1e-3)
    assert collect(tmp_path, "knn") == [{"run": "a"}]


def test_formats(root):
    rows = collect(root, "knn")
    lines = FORMATS["markdown"](rows).splitlines()
    assert lines[:3] == [
        "| run | optim.lr.peak | train.seed | knn | loss |",
        "| --- | --- | --- | --- | --- |",
        "| more/c | 0.1235 | 0 | 0.5 | - |",
    ]
    assert json.loads(FORMATS["json"](rows)) == rows
    read = list(csv.DictReader(io.StringIO(FORMATS["csv"](rows))))
    assert [row["optim.lr.peak"] for row in read][:2] == ["0.123456789", "0.001"]
    assert read[-1]["knn"] == ""
