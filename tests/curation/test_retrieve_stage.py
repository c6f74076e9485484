"""What seeds ask for, from tables that can be checked by hand."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinojax.config.curation import CurationConfig
from dinojax.curate import curate
from dinojax.curation import retrieve_stage as module
from dinojax.curation.embeddings import RowsOptions
from dinojax.curation.retrieve_stage import RetrieveOptions, retrieve_stage
from dinojax.curation.stage_folder import claim, finish
from dinojax.curation.tables import list_column, write_table
from dinojax.curation.tree import centers_path, tree_path
from dinojax.data.ids import read_ids
from dinojax.embedding.files import Rows, write_parquet

ANGLES = {"a": 0, "b": 10, "c": 20, "d": 90, "e": 100, "f": 180}
"""Of the pool, in degrees."""
SEEDS = {"s0": 2, "s1": 4, "s2": 93}


def directions(angles):
    angle = np.deg2rad(np.asarray(list(angles.values()), np.float32))
    return 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def write(folder, ids, rows):
    folder.mkdir()
    part = Rows(list(ids), np.full(len(rows), -1, np.int32), {"cls": rows})
    write_parquet(folder / "a.parquet", [part])
    return RowsOptions(str(folder))


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    return RetrieveOptions(
        write(folder / "seeds", SEEDS, directions(SEEDS)),
        rows=write(folder / "pool", ANGLES, directions(ANGLES)),
        neighbours=2,
    )


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    """a, b and c in one cluster, d and e in another, f alone, whose centre is short."""
    folder = tmp_path_factory.mktemp("work") / "cluster"
    claim(folder, {"unit_rows": True})
    columns = {
        "child": list(ANGLES),
        "parent": np.asarray([0, 0, 0, 1, 1, 2]),
        "squared_distance": np.zeros(6, np.float32),
        "label": pa.nulls(6, pa.int32()),
    }
    write_table(tree_path(folder, 1), columns)
    centers = directions({"0": 10, "1": 95, "2": 180}) / np.asarray([[3], [3], [6]], np.float32)
    write_table(centers_path(folder, 1), {"center": list_column(centers)})
    finish(folder, {}, [tree_path(folder, 1), centers_path(folder, 1)])
    return folder


def selection(folder):
    table = pq.read_table(folder / "selection.parquet")
    return dict(zip(table["id"].to_pylist(), table["multiplicity"].to_pylist(), strict=True))


def test_every_set_may_have_a_list_of_its_own(options, tmp_path):
    """Its name is that of its folder alone."""
    work, named = tmp_path, replace(options, name="birds", neighbours=1)
    given = CurationConfig(retrieve=options)
    reports = [curate("retrieve", replace(given, retrieve=one), work) for one in (options, named)]
    assert selection(work / "retrieve") == {"a": 2, "b": 2, "d": 1, "e": 1}
    assert selection(work / "retrieve-birds") == {"a": 2, "d": 1}
    assert "name" not in reports[1]["inputs"]
    for name in ("a/b", "", ".."):
        with pytest.raises(ValueError, match=f"retrieve.name: '{name}' is no name of a folder"):
            curate("retrieve", replace(given, retrieve=replace(options, name=name)), work)


def test_neighbours_with_their_multiplicities(options, tmp_path):
    report = retrieve_stage(options, 0, tmp_path / "r", tmp_path / "none")
    assert selection(tmp_path / "r") == {"a": 2, "b": 2, "d": 1, "e": 1}
    assert sorted(read_ids(tmp_path / "r" / "selection.parquet")) == list("aabbde")
    assert (report["rows_in"], report["seeds"]) == (6, 3)
    assert (report["rows_out"], report["copies_out"]) == (4, 6)
    assert report["collision_rate"] == pytest.approx(1 / 3)
    assert retrieve_stage(options, 0, tmp_path / "r", tmp_path / "none") == report


@pytest.mark.parametrize(
    ("values", "expected", "count"),
    [
        ({"least_seeds": 2}, "abc", 3),
        ({"least_seeds": 1}, "abcde", 5),
        ({"least_seeds": 1, "per_cluster": 1}, "abcde", 2),
        ({"least_seeds": 1, "cap": 4}, "abcde", 4),
        ({"least_seeds": 4}, "", 0),
    ],
)
def test_clusters(options, clusters, tmp_path, values, expected, count):
    given = replace(options, by="clusters", **values)
    report = retrieve_stage(given, 0, tmp_path / "r", clusters)
    found = selection(tmp_path / "r")
    assert set(found) <= set(expected) and set(found.values()) <= {1}
    assert len(found) == report["rows_out"] == count
    if "per_cluster" in values:
        assert len(set(found) & set("abc")) == len(set(found) & set("de")) == 1


def test_seeds_are_brought_to_the_length_of_what_was_clustered(options, clusters, tmp_path):
    """Without it the shortest centre would be the nearest to a short row."""
    rows = directions({"s": 120}) / 300
    seeds = write(tmp_path / "seeds", ["s"], rows)
    given = replace(options, seeds=seeds, by="clusters", least_seeds=1)
    retrieve_stage(given, 0, tmp_path / "r", clusters)
    assert set(selection(tmp_path / "r")) == {"d", "e"}


@pytest.mark.parametrize(
    ("by", "values"),
    [
        ("neighbours", {"neighbours": 1}),
        ("neighbours", {"index": "IVF1,Flat"}),
        ("clusters", {"least_seeds": 1}),
        ("clusters", {"per_cluster": 2}),
        ("clusters", {"cap": 1}),
    ],
)
def test_every_option_is_bound(options, clusters, tmp_path, monkeypatch, by, values):
    given = replace(options, by=by, least_seeds=2)
    first = retrieve_stage(given, 0, tmp_path / "r", clusters)
    asked = []
    real = module.search_by
    monkeypatch.setattr(
        module,
        "search_by",
        lambda index, width, **how: (
            asked.append((index, how["seed"], how["probes"])) or real(None, width, **how)
        ),
    )
    (name,) = values
    with pytest.raises(ValueError, match=rf"is of other inputs: {name} was .*; give another"):
        retrieve_stage(replace(given, **values), 0, tmp_path / "r", clusters)
    again = retrieve_stage(replace(given, **values), 5, tmp_path / "s", clusters)
    assert (again["outputs"] != first["outputs"]) == (name != "index")
    assert by == "clusters" or asked[-1] == (values.get("index"), 5, 16)
    if name == "index":
        with pytest.raises(ValueError, match="is of other inputs: probes was 16 and is 2; give"):
            retrieve_stage(replace(given, **values, probes=2), 5, tmp_path / "s", clusters)


@pytest.mark.parametrize("by", ["neighbours", "clusters"])
def test_chunks_change_nothing(options, clusters, tmp_path, by):
    given = replace(options, by=by, least_seeds=1)
    whole = retrieve_stage(given, 0, tmp_path / "a", clusters)
    other = replace(given, chunk_rows=2)
    parts = retrieve_stage(other, 0, tmp_path / "b", clusters)
    assert parts["outputs"] == whole["outputs"] and parts["inputs"] == whole["inputs"]


def test_mistakes(options, clusters, tmp_path):
    wide = write(tmp_path / "wide", ["x"], np.ones((1, 3), np.float32))
    for values, message in (
        ({"by": "x"}, "retrieve.by='x' is unknown; use one of 'neighbours', 'clusters'"),
        ({"neighbours": 0}, "retrieve.neighbours=0 must be at least 1; use 4"),
        ({"cap": 0}, "retrieve.cap=0 must be at least 1; use 1000000"),
        ({"probes": 0}, "retrieve.probes=0 must be at least 1; use 16"),
        ({"index": "IFV4,Flat"}, "retrieve.index='IFV4,Flat' is no index of FAISS"),
        ({"seeds": RowsOptions()}, "retrieve.seeds.folder=None is no folder"),
        ({"seeds": wide}, "retrieve.seeds have the width 3 and the pool 2; embed both alike"),
        ({"seeds": wide, "by": "clusters"}, "have the width 3 and the centres of"),
    ):
        with pytest.raises(ValueError) as error:
            retrieve_stage(replace(options, **values), 0, tmp_path / "r", clusters)
        assert message in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"run python -m dinojax.curate none first"):
        retrieve_stage(replace(options, by="clusters"), 0, tmp_path / "r", tmp_path / "none")
    assert not (tmp_path / "r").exists()
