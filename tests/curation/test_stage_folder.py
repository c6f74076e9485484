"""A folder is of one set of inputs; its report holds while its tables are as they were."""

import json
import os

import pytest

from dinojax.curation import stage_folder
from dinojax.curation.stage_folder import claim, finish, read_report
from dinojax.curation.tables import write_table


def test_the_life_of_a_folder(tmp_path):
    folder = tmp_path / "sample"
    inputs = {"seed": 0, "clusters": (4, 2)}
    assert claim(folder, inputs) is None
    assert claim(folder, inputs) is None  # begun, not done
    with pytest.raises(FileNotFoundError, match=r"run python -m dinojax.curate sample first"):
        read_report(folder)
    write_table(folder / "x.parquet", {"id": ["a", "b"]})
    report = finish(folder, {"rows_out": 2}, [folder / "x.parquet"])
    assert report["rows_out"] == 2 and report["inputs"] == {"seed": 0, "clusters": [4, 2]}
    assert claim(folder, inputs) == report == json.loads((folder / "report.json").read_text())


def test_other_inputs(tmp_path):
    claim(tmp_path / "a", {"seed": 0, "clusters": (4, 2)})
    with pytest.raises(ValueError, match=r"clusters was \[4, 2\] and is \[4, 3\]; give another"):
        claim(tmp_path / "a", {"seed": 0, "clusters": (4, 3)})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("")
    with pytest.raises(ValueError, match=r"holds other files and no inputs.json; give another"):
        claim(tmp_path / "b", {"seed": 0})


def test_drafts_of_killed_processes(tmp_path):
    """One that died before there was any file, and one that died later."""
    folder = tmp_path / "a"
    folder.mkdir()
    draft, lock = folder / ".inputs.json.4711", folder / ".lock"
    draft.write_text("{")
    lock.write_text("")
    assert claim(folder, {"seed": 0}) is None
    assert not draft.exists() and lock.exists()
    draft = folder / ".x.parquet.12"
    draft.write_text("PAR1")
    claim(folder, {"seed": 0})
    assert {path.name for path in folder.iterdir()} == {".lock", "inputs.json"}


def test_tables_that_have_changed(tmp_path):
    claim(tmp_path / "a", {})
    path = tmp_path / "a" / "x.parquet"
    write_table(path, {"id": ["a"]})
    first = finish(tmp_path / "a", {}, [path])["fingerprint"]
    write_table(path, {"id": ["b"]})
    with pytest.raises(ValueError, match=r"x.parquet is not what report.json says; delete"):
        claim(tmp_path / "a", {})
    assert finish(tmp_path / "a", {}, [path])["fingerprint"] != first
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"x.parquet is missing; delete"):
        read_report(tmp_path / "a")


def test_tables_are_hashed_once(tmp_path, monkeypatch):
    """As long as size and time stay; another time is looked into, and may be of the same bytes."""
    claim(tmp_path / "a", {})
    paths = [tmp_path / "a" / f"{name}.parquet" for name in "xy"]
    for path in paths:
        write_table(path, {"id": [path.name]})
    read, real = [], stage_folder.hash_file
    monkeypatch.setattr(stage_folder, "hash_file", lambda path: read.append(path) or real(path))
    report = finish(tmp_path / "a", {}, paths[:1])
    assert claim(tmp_path / "a", {}) == report and read == paths[:1]
    more = finish(tmp_path / "a", {}, paths)
    assert read == paths and report["outputs"].items() < more["outputs"].items()
    os.utime(paths[0], ns=(1, 1))
    assert claim(tmp_path / "a", {}) == more and read == [*paths, paths[0]]
