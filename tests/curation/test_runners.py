"""However rows are divided and wherever a stage was interrupted, its tables are the same."""

import dataclasses
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curation_inputs import run_dedup, run_sample, write_inputs
from divided import Divided, divide

from dinojax.curation import dedup_stage, sample_stage, tables
from dinojax.curation.joins import join, tally
from dinojax.curation.runners import RunnerOptions, make_runner
from dinojax.curation.search import by_mesh


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory):
    work = tmp_path_factory.mktemp("local")
    return run_dedup(inputs, work / "dedup"), run_sample(inputs, work / "sample")


def test_there_is_something_to_do(done):
    dedup, sample = done
    assert dedup["removed"]["duplicate"] > 50 and dedup["removed"]["reference"] >= 5
    assert sample["copies_out"] == 60 > sample["rows_out"]
    assert sample["balance"]["classes"]["before"]["groups"] == 4


def test_ids_may_be_more_than_2_gib(inputs, tmp_path):
    """The offsets of `pa.string` are 32 bits."""
    run_dedup(inputs, tmp_path / "dedup")
    run_sample(inputs, tmp_path / "sample")
    schemas = {path.name: pq.read_schema(path) for path in tmp_path.glob("*/*.parquet")}
    assert {"rows.parquet", "dedup.parquet", "kept.parquet", "selection.parquet"} <= schemas.keys()
    assert all(pa.string() not in schema.types for schema in schemas.values())


@pytest.mark.parametrize("shards", [2, 6])
def test_shards_do_not_show(inputs, done, shards, monkeypatch, tmp_path):
    for stage in (dedup_stage, sample_stage):
        monkeypatch.setattr(stage, "make_runner", lambda options: Divided(shards))
    assert run_dedup(inputs, tmp_path / "dedup") == done[0]
    assert run_sample(inputs, tmp_path / "sample") == done[1]
    sample = inputs._replace(sample=sample_stage.SampleOptions(50, 1, nearest=True))
    divided = run_sample(sample, tmp_path / "nearest")
    monkeypatch.undo()
    assert run_sample(sample, tmp_path / "whole") == divided


@pytest.mark.parametrize("shards", [1, 4])
def test_a_component_of_much_of_the_pool_is_reported(inputs, shards, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(dedup_stage, "make_runner", lambda options: Divided(shards))
    loose = inputs._replace(dedup=dedup_stage.DedupOptions(inputs.dedup.rows, threshold=0.0))
    report = run_dedup(loose, tmp_path / "dedup")
    assert report["components"]["largest_share"] > 0.9
    assert "hang together: raise dedup.threshold" in caplog.text


@pytest.mark.parametrize("shards", [1, 4])
def test_nothing_is_like_anything(inputs, shards, monkeypatch, tmp_path):
    """The tables of pairs have no rows."""
    monkeypatch.setattr(dedup_stage, "make_runner", lambda options: Divided(shards))
    options = dataclasses.replace(inputs.dedup, threshold=0.9999, reference_threshold=0.9999)
    report = run_dedup(inputs._replace(dedup=options), tmp_path / "dedup")
    assert report["removed"] == {"duplicate": 0, "reference": 0}
    assert report["components"]["alone"] == report["rows_out"] == report["rows_in"]


@pytest.mark.parametrize("name", ["pairs", "groups", "reference_pairs", "dedup", "kept"])
def test_killed_anywhere_and_run_again_by_another(inputs, done, name, monkeypatch, tmp_path):
    """What was found before is not searched for again."""
    real, searched = dedup_stage.write_parts, []

    def dies(path, *given):
        if path.stem == name:
            raise KeyboardInterrupt
        real(path, *given)

    for module in (dedup_stage, sys.modules["dinojax.curation.pairs"]):
        monkeypatch.setattr(module, "write_parts", dies)
    with pytest.raises(KeyboardInterrupt):
        run_dedup(inputs, tmp_path / "dedup")
    monkeypatch.undo()

    def counted(*given):
        searched.append(given)
        return by_mesh(*given)

    monkeypatch.setattr(dedup_stage, "search_by", lambda *_, **__: counted)
    monkeypatch.setattr(dedup_stage, "make_runner", lambda options: Divided(3))
    assert run_dedup(inputs, tmp_path / "dedup") == done[0]
    assert len(searched) == {"pairs": 3, "groups": 2, "reference_pairs": 2}.get(name, 0)


def test_the_table_of_pairs(inputs, tmp_path):
    """The numbers of pairs are those of rows, and of dedup.parquet."""
    run_dedup(inputs, tmp_path / "dedup")
    read = {path.stem: pq.read_table(path) for path in (tmp_path / "dedup").glob("*.parquet")}
    assert read.keys() == {"dedup", "kept", "rows", "pairs", "reference_pairs"}
    count = len(read["dedup"])
    assert read["rows"]["id"][:count].to_pylist() == read["dedup"]["id"].to_pylist()
    assert all(id.startswith("tests/") for id in read["rows"]["id"][count:].to_pylist())
    component = np.asarray(read["dedup"]["component"].to_pylist())
    one, other = (read["pairs"][name].to_numpy() for name in ("one", "other"))
    assert (one < other).all() and other.max() < count
    assert (component[one] == component[other]).all()
    assert read["pairs"]["similarity"].to_numpy().min() > inputs.dedup.threshold
    assert read["reference_pairs"]["other"].to_numpy().max() >= count


def test_row_groups_do_not_show_in_what_is_read(monkeypatch, tmp_path):
    table = pa.table({"id": [f"{i}" for i in range(23)], "more": np.arange(23) ** 2})
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "none.parquet"]
    monkeypatch.setattr(tables, "GROUP_ROWS", 5)
    tables.write_parts(paths[0], table.schema, [table])
    tables.write_parts(paths[1], table.schema, [table[:7], table[7:7], table[7:8], table[8:]])
    tables.write_parts(paths[2], table.schema, [])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(tables.pieces(paths[0])) == 5 and len(tables.pieces(paths[2])) == 1
    with make_runner(RunnerOptions()) as runner:
        found = runner.read(paths[0], ["more"]).all()
        assert runner.read(paths[2], ["id"]).all().to_pydict() == {"id": [], "row": []}
    assert found.to_pydict() == {"more": [i**2 for i in range(23)], "row": list(range(23))}


def test_joining_and_counting():
    left = pa.table({"row": [3, 1, 2], "id": ["c", "a", "b"]})
    right = pa.table({"row": [3, 1], "more": [30, 10]})
    schema = pa.schema([("row", pa.int64()), ("id", pa.string()), ("more", pa.int64())])
    joined = join(divide(left, 3), "more", divide(right, 2), schema)
    (found,) = joined.sorted("row")
    assert found.to_pydict() == {"row": [1, 2, 3], "id": ["a", "b", "c"], "more": [10, None, 30]}
    counted = divide(pa.table({"of": [5, None, 7, 5], "times": [1, 2, 3, 4]}), 2)
    (of,), (weighted, times) = tally(counted, ["of"]), tally(counted, ["of", "times"], "times")
    assert [x.tolist() for x in of] == [[5, 7], [2, 1]]
    assert [x.tolist() for x in weighted] == [[5, 7], [5, 3]]
    assert [x.tolist() for x in times] == [[1, 2, 3, 4], [1, 2, 3, 4]]


def test_mistakes(monkeypatch):
    for options, message in (
        (RunnerOptions("beam"), "runner.engine='beam' is unknown; use one of 'local', 'ray'"),
        (RunnerOptions(address="auto"), "runner.address='auto' is of a cluster; use it with"),
    ):
        with pytest.raises(ValueError, match=message):
            make_runner(options)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ValueError, match=r"needs Ray Data; pip install 'dinojax\[ray\]'"):
        make_runner(RunnerOptions("ray"))
