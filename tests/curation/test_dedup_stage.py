"""Copies, chains of copies and images of an evaluation, planted among rows that are unlike."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from dinojax.curation import dedup_stage as module
from dinojax.curation.dedup_stage import DedupOptions, dedup_stage
from dinojax.curation.embeddings import RowsOptions
from dinojax.data.ids import read_ids
from dinojax.embedding.files import Rows, write_parquet

AXES = np.eye(40, dtype=np.float32)
"""Unlike each other."""


def turned(axis, other, cosine):
    return 5 * (cosine * AXES[axis] + np.sqrt(1 - cosine**2) * AXES[other])


POOL = {
    **{f"u{i}": AXES[i] for i in range(8)},
    "u0 copy": turned(0, 20, 0.9),
    "u1 copy": turned(1, 21, 0.8),
    "u1 copy of the copy": turned(1, 21, 0.3),  # 0.81 to the copy, 0.3 to the first
    "u2 half like": turned(2, 22, 0.55),
    "t": turned(7, 29, 0.5),
    "t copy": turned(7, 29, 0.4),
}
TEST_SET = {"e4": AXES[4], "e5": turned(5, 30, 0.5), "e6": turned(6, 31, 0.4), "e9": AXES[29]}
"""The same as u4; above the threshold of references to u5; below it to u6; that of t."""


def write(folder, rows):
    folder.mkdir()
    part = Rows(list(rows), np.zeros(len(rows), np.int32), {"cls": np.stack(list(rows.values()))})
    write_parquet(folder / "a.parquet", [part])
    return str(folder)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    pool, tests = write(folder / "pool", POOL), write(folder / "tests", TEST_SET)
    return DedupOptions(RowsOptions(pool), (tests,), neighbours=4)


@pytest.fixture(scope="module")
def done(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "dedup"
    return folder, dedup_stage(options, 0, folder)


def test_who_stays(done):
    folder, report = done
    rows = {row["id"]: row for row in pq.read_table(folder / "dedup.parquet").to_pylist()}
    removed = {id: row["reason"] for id, row in rows.items() if not row["kept"]}
    assert removed == {
        "u0 copy": "duplicate",
        "u1 copy": "duplicate",
        "u1 copy of the copy": "duplicate",
        "t copy": "duplicate",
        "u4": "reference",
        "u5": "reference",
        "t": "reference",
        "u7": "reference",  # 0.5 to t, which is like e9: all of a component goes
    }
    assert rows["u1 copy of the copy"]["component"] == rows["u1"]["component"] == "u1"
    assert rows["u2 half like"]["component"] == "u2 half like"
    assert [rows[id]["reference"] for id in ("u4", "u5", "t", "u6")] == ["e4", "e5", "e9", None]
    assert set(read_ids(folder / "kept.parquet")) == POOL.keys() - removed.keys()
    assert report["removed"] == {"duplicate": 4, "reference": 4}
    assert (report["rows_in"], report["rows_out"]) == (14, 6)
    assert report["components"] == {
        "alone": 7,
        "groups": 3,
        "largest": 3,
        "largest_share": 3 / 14,
    }
    assert report["full_lists"] == {"pairs": 0, "reference_pairs": 0}


def test_of_copies_the_largest_stays(options, tmp_path):
    """Then the smallest id; what has no size comes last. Sizes belong to the inputs."""
    sizes = {"u0": (9, 9), "u0 copy": (9, 10), "u1": (8, 9), "u1 copy": (9, 8)}

    def stay(name, sizes):
        part = Rows(
            list(POOL),
            np.zeros(len(POOL), np.int32),
            {"cls": np.stack(list(POOL.values()))},
            np.asarray([sizes.get(id, (0, 0)) for id in POOL], np.int32),
        )
        (tmp_path / name).mkdir()
        write_parquet(tmp_path / name / "a.parquet", [part])
        given = replace(options, rows=RowsOptions(str(tmp_path / name)), references=())
        dedup_stage(given, 0, tmp_path / "dedup")
        rows = pq.read_table(tmp_path / "dedup" / "dedup.parquet").to_pylist()
        return {row["id"]: row["component"] for row in rows}

    found = stay("known", sizes)
    assert (found["u0"], found["u1"], found["t copy"]) == ("u0 copy", "u1", "t")
    with pytest.raises(ValueError, match="is of other inputs: pixels was"):
        stay("other", sizes | {"u0": (9, 11)})


@pytest.mark.parametrize(
    "values",
    [
        {"threshold": 0.5},
        {"reference_threshold": 0.3},
        {"neighbours": 2},
        {"references": ()},
        {"index": "IVF1,Flat"},
    ],
)
def test_every_option_is_bound(options, done, values, monkeypatch, tmp_path):
    (name,) = values
    with pytest.raises(ValueError, match=rf"is of other inputs: {name} was .*; give another"):
        dedup_stage(replace(options, **values), 0, done[0])
    given = []
    real = module.search_by

    def spy(index, width, **how):
        def search(bank, queries, k):
            given.append((index, how["seed"], k))
            return real(None, width, **how)(bank, queries, k)

        return search

    monkeypatch.setattr(module, "search_by", spy)
    again = dedup_stage(replace(options, **values), 3, tmp_path / "dedup")
    nearest = {(None, 3, 1)} if "references" not in values else set()
    assert set(given) == {(values.get("index"), 3, values.get("neighbours", 4))} | nearest
    assert (again["outputs"] != done[1]["outputs"]) == (name not in ("index", "neighbours"))


def test_lists_that_fill_with_one_side_hide_no_reference(tmp_path, caplog):
    """70 images that all stay, at 0.58 of each other, and 70 references at 0.95: 0.5 to any of
    those is above the threshold, and in no list of 64."""
    own, axes = np.eye(142), np.eye(142)[:2]
    known = np.sqrt(0.95) * axes[0]
    pool = 0.5 / np.sqrt(0.95) * axes[0]
    pool = pool + np.sqrt(0.58 - np.square(pool).sum()) * axes[1]
    rows = np.concatenate([pool + np.sqrt(0.42) * own[2:72], known + np.sqrt(0.05) * own[72:]])
    cosines = rows @ rows.T
    np.testing.assert_allclose(cosines[:70, 70:], 0.5)
    assert cosines[0, 1] == pytest.approx(0.58) and cosines[70, 71] == pytest.approx(0.95)
    names = [f"{i:03}" for i in range(140)]
    every = dict(zip(names, rows.astype(np.float32), strict=True))
    folders = [
        write(tmp_path / name, {id: every[id] for id in some})
        for name, some in (("pool", names[:70]), ("tests", names[70:]))
    ]
    given = DedupOptions(RowsOptions(folders[0]), (folders[1],))
    report = dedup_stage(given, 0, tmp_path / "dedup")
    assert report["removed"] == {"duplicate": 0, "reference": 70}
    assert report["full_lists"] == {"pairs": 0, "reference_pairs": 140}
    assert "140 records of reference_pairs.parquet have all 64 neighbours above" in caplog.text


def test_chunks_change_no_table(options, done, tmp_path):
    """And belong to no inputs."""
    some = replace(options, chunk_rows=8)
    assert dedup_stage(some, 0, tmp_path / "dedup")["outputs"] == done[1]["outputs"]
    assert dedup_stage(some, 0, done[0]) == done[1]


def test_probes_are_of_an_index(options, done, monkeypatch, tmp_path):
    """And bound with it."""
    assert dedup_stage(replace(options, probes=3), 0, done[0]) == done[1]
    asked, real = [], module.search_by
    monkeypatch.setattr(
        module,
        "search_by",
        lambda index, width, **how: asked.append(how["probes"]) or real(None, width, **how),
    )
    given = replace(options, index="IVF1,Flat", probes=3)
    dedup_stage(given, 0, tmp_path / "dedup")
    assert set(asked) == {3}
    with pytest.raises(ValueError, match="is of other inputs: probes was 3 and is 4; give"):
        dedup_stage(replace(given, probes=4), 0, tmp_path / "dedup")


def test_a_component_of_half_the_pool_is_reported(options, tmp_path, caplog):
    loose = replace(options, threshold=-0.5, neighbours=3, references=())
    report = dedup_stage(loose, 0, tmp_path / "dedup")
    assert report["components"]["largest"] > 3
    assert "hang together: raise dedup.threshold" in caplog.text


def test_mistakes(options, tmp_path):
    narrow = write(tmp_path / "narrow", {"a": np.ones(3, np.float32)})
    for values, message in (
        ({"threshold": 1.0}, "dedup.threshold=1.0 must lie in -1..1; use 0.6"),
        ({"reference_threshold": -2.0}, "dedup.reference_threshold=-2.0 must lie in"),
        ({"neighbours": 1}, "dedup.neighbours=1 must be at least 2"),
        ({"chunk_rows": 0}, "dedup.chunk_rows=0 must be at least 1; use 1048576"),
        ({"probes": 0}, "dedup.probes=0 must be at least 1; use 16"),
        ({"index": "IFV4,Flat"}, "dedup.index='IFV4,Flat' is no index of FAISS"),
        ({"references": (narrow,)}, "has cls of width 3 and the pool of 40; embed both alike"),
        ({"references": (str(tmp_path / "x"),)}, "dedup.references[0].folder="),
    ):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            dedup_stage(replace(options, **values), 0, tmp_path / "dedup")
        assert message in str(error.value)
    assert not (tmp_path / "dedup").exists()
