"""The stages of curation as the command runs them, on rows of known classes."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import types
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from terminals import Terminal

from dinojax import curate as curate_app
from dinojax.config.curation import CurationConfig, default_config, parse_config
from dinojax.curate import curate
from dinojax.curation import cluster_stage, seeding, sorted_rows, tree
from dinojax.curation.cluster_stage import ClusterOptions, levels_of
from dinojax.curation.dedup_stage import DedupOptions
from dinojax.curation.embeddings import RowsOptions
from dinojax.curation.kmeans import State
from dinojax.curation.mix_stage import MixOptions
from dinojax.curation.runners import RunnerOptions
from dinojax.curation.sample_stage import SampleOptions
from dinojax.curation.seeding import Seeding, greedy_seeds
from dinojax.data.ids import read_ids
from dinojax.data.open import open_source
from dinojax.embedding.files import Rows, write_parquet

SIZES = (240, 30, 20, 10)
"""Of well separated classes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Rows for the first scenes, by their ids."""
    folder = tmp_path_factory.mktemp("embedded")
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(len(SIZES)), SIZES)
    rows = (20 * np.eye(4)[label] + rng.normal(size=(len(label), 4))).astype(np.float32)
    source = open_source(f"scenes:{len(label)}")
    ids = [source.record_id(i) for i in range(len(label))]
    write_parquet(folder / "features-00000-of-00001.parquet", [Rows(ids, label, {"cls": rows})])
    return folder


@pytest.fixture(scope="module")
def config(folder) -> CurationConfig:
    rows = RowsOptions(str(folder))
    clusters = ClusterOptions(rows, clusters=(24, 4), rounds=(1, 0), kept=(6, 1), iterations=5)
    return CurationConfig(cluster=clusters, sample=SampleOptions(target=40))


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    return work, curate("cluster", config, work), curate("sample", config, work)


def changed(config, section, **values):
    return dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **values)}
    )


def test_the_sample_is_balanced_and_training_reads_it(done):
    """Level 2 finds the four classes; each gets a fourth, and the smallest all that it has."""
    work, _, report = done
    file = work / "sample" / "selection.parquet"
    assert len(set(read_ids(file))) == 40
    source = open_source(f"ids:{file}:scenes:{sum(SIZES)}")
    assert len(source) == 40
    tables = pq.read_table(work / "cluster" / "tree_l1.parquet")
    label = dict(zip(tables["child"].to_pylist(), tables["label"].to_pylist(), strict=True))
    taken = [label[source.record_id(i)] for i in range(40)]
    assert np.bincount(taken).tolist() == [10, 10, 10, 10]
    assert report["rows_in"] == 300 and report["rows_out"] == report["copies_out"] == 40
    classes = report["balance"]["classes"]
    assert classes["before"]["divergence"] > 0.5 and classes["after"]["effective"] == 4.0
    assert {"level_1", "level_2", "classes"} == report["balance"].keys()


def test_what_a_sample_leaves_out_counts(done, config, tmp_path):
    """One record: of four classes one is left, and nothing about it is even."""
    (tmp_path / "cluster").symlink_to(done[0] / "cluster")
    report = curate("sample", changed(config, "sample", target=1), tmp_path)
    after = report["balance"]["classes"]["after"]
    assert after == pytest.approx({"groups": 1, "effective": 1, "divergence": np.log(4)})


def test_what_dedup_keeps_can_be_clustered(config, folder, tmp_path):
    """Within the classes all are alike by this threshold, and one of each stays."""
    given = dataclasses.replace(config, dedup=DedupOptions(RowsOptions(str(folder))))
    assert curate("dedup", given, tmp_path)["rows_out"] == len(SIZES)
    kept = RowsOptions(str(folder), ids=str(tmp_path / "dedup" / "kept.parquet"))
    with pytest.raises(ValueError, match=r"wants 24 clusters of 4 rows; use at most 4"):
        curate("cluster", changed(config, "cluster", rows=kept), tmp_path)


def test_retrieval_asks_the_clusters(done, config, folder, tmp_path):
    """Seeds that are the pool hit every cluster."""
    (tmp_path / "cluster").symlink_to(done[0] / "cluster")
    given = changed(config, "retrieve", seeds=RowsOptions(str(folder)), by="clusters")
    report = curate("retrieve", changed(given, "retrieve", least_seeds=1), tmp_path)
    assert report["rows_out"] == sum(SIZES) and report["collision_rate"] == 0


def test_the_report_of_the_clusters(done):
    work, report, _ = done
    fine, coarse = report["levels"]
    assert (fine["clusters"], coarse["clusters"]) == (24, 4)
    assert report["rows_in"] == report["rows_out"] == 300
    assert coarse["records"] == {"least": 10, "median": 25, "most": 240}
    assert report["seconds"]["all"] > report["seconds"]["read"] > 0
    assert report == json.loads((work / "cluster" / "report.json").read_text())
    assert "folder" not in json.dumps(report["inputs"])  # data may move


def test_what_is_done_is_not_done_again(done, config, monkeypatch):
    """Nor are features read again, or kept twice, as long as their files are the same."""
    work, clusters, sample = done
    assert [path.name for path in (work / "cluster_rows").iterdir()] == ["sorted.json"]
    monkeypatch.setattr(tree, "cluster", None)
    monkeypatch.setattr(cluster_stage, "list_records", None)
    assert curate("cluster", config, work) == clusters
    assert curate("sample", config, work) == sample


@pytest.mark.slow
def test_devices_may_share_the_centres(done, config, tmp_path):
    given = dataclasses.replace(config, tensor=4)
    assert curate("cluster", given, tmp_path)["outputs"] == done[1]["outputs"]


def test_centres_for_other_numbers_of_devices_are_refused(config, tmp_path):
    with pytest.raises(ValueError, match=r"tensor=3 does not divide the 8 devices; use 1"):
        curate("cluster", dataclasses.replace(config, tensor=3), tmp_path)


def test_killed_while_rows_are_sorted(done, config, monkeypatch, tmp_path):
    _, clusters, _ = done

    def dies(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sorted_rows, "replace_text", dies)
        curate("cluster", config, tmp_path)
    assert (tmp_path / "cluster_rows").exists() and not (tmp_path / "cluster").exists()
    assert curate("cluster", config, tmp_path)["outputs"] == clusters["outputs"]


def test_what_is_known_is_refused_before_rows_are_sorted(config, folder, monkeypatch, tmp_path):
    """And all stays as it was: here, where a run has begun."""
    rows, work = tmp_path / "rows", tmp_path / "work"
    shutil.copytree(folder, rows)
    given = changed(config, "cluster", rows=RowsOptions(str(rows)))

    def dies(*given, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tree, "cluster", dies)
        curate("cluster", given, work)

    def everything():
        return {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}

    before = everything()
    assert before.keys() >= {work / "cluster" / "inputs.json", work / "cluster_rows" / "rows.f32"}
    with monkeypatch.context() as patch:
        patch.setattr(cluster_stage, "list_records", None)
        for values, message in (
            ({"clusters": (25, 4)}, r"other inputs: clusters was \[24, 4\] and is \[25, 4\]; give"),
            ({"unit_rows": True}, "other inputs: unit_rows was false and is true; give"),
            (
                {"rows": RowsOptions(str(rows), "mean_patch")},
                'other rows: feature was "cls" and is "mean_patch"; give another --workdir, or del',
            ),
        ):
            with pytest.raises(ValueError, match=message):
                curate("cluster", changed(given, "cluster", **values), work)
        with pytest.raises(ValueError, match="is of other inputs: seed was 0 and is 1; give"):
            curate("cluster", dataclasses.replace(given, seed=1), work)
        (file,) = rows.iterdir()
        os.utime(file, ns=(1, 1))
        with pytest.raises(ValueError, match=r"other rows: files was \[1, .* and is \[1, .*; give"):
            curate("cluster", given, work)
    assert everything() == before
    # As it says: without the sorted rows, rows themselves are compared.
    shutil.rmtree(work / "cluster_rows")
    part = pq.read_table(file).slice(1)
    pq.write_table(part, file)
    with pytest.raises(ValueError, match=r"is of other inputs: rows was .*; give another"):
        curate("cluster", given, work)
    assert [path.name for path in work.iterdir() if path.is_dir()] == ["cluster"]
    shutil.copy(folder / file.name, file)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tree, "cluster", dies)
        curate("cluster", given, work)


def test_killed_and_run_again(done, config, monkeypatch, tmp_path):
    _, clusters, sample = done
    real, deaths = tree.save_progress, [Seeding, State, State, State, Seeding]

    def dies(path, progress):
        real(path, progress)
        if deaths and isinstance(progress.state, deaths[0]):
            del deaths[0]
            raise KeyboardInterrupt

    monkeypatch.setattr(tree, "save_progress", dies)
    monkeypatch.setattr(tree, "SAVED_EVERY_S", -1)
    monkeypatch.setattr(seeding, "PICKS", 2)
    while deaths:
        with pytest.raises(KeyboardInterrupt):
            curate("cluster", config, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"run python -m dinojax.curate cluster first"):
        curate("sample", config, tmp_path)
    with contextlib.redirect_stderr(Terminal()) as screen:
        assert curate("cluster", config, tmp_path)["fingerprint"] == clusters["fingerprint"]
        assert curate("sample", config, tmp_path)["outputs"] == sample["outputs"]
    *rounds, sampled = screen.bars()
    titles = [
        "cluster: level 1 of 2, round 1 of 1, seeds:",
        "cluster: level 1 of 2, round 1 of 1:",
        "cluster: level 2 of 2, round 0 of 0, seeds:",
        "cluster: level 2 of 2, round 0 of 0:",
    ]
    for title, line in zip(titles, rounds, strict=True):
        assert line.startswith(f"{title} 100%")
    counts = [line.partition("| ")[2].partition(" [")[0] for line in rounds]
    assert counts[:3] == ["24/24", "5/5", "4/4"] and ", inertia " in rounds[3]
    assert " 4/24 [" in screen.getvalue() and " 2/24 [" not in screen.getvalue()
    assert sampled.startswith("sample: 100%") and "| 4/4 [" in sampled


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("cluster", {"unit_rows": True}),
        ("cluster", {"rounds": (0, 0)}),
        ("cluster", {"kept": (5, 1)}),
        ("cluster", {"iterations": 4}),
        ("cluster", {"tolerance": 0.5}),
        ("sample", {"target": 41}),
        ("sample", {"multiplicity": 2}),
        ("sample", {"nearest": True}),
    ],
)
def test_every_option_is_bound_and_changes_the_tables(done, config, tmp_path, section, values):
    work, *reports = done
    other, (name,) = changed(config, section, **values), values
    with pytest.raises(ValueError, match=rf"is of other inputs: {name} was .*; give another"):
        curate(section, other, work)
    if section == "sample":
        (tmp_path / "cluster").symlink_to(work / "cluster")
        other = changed(other, "sample", target=values.get("target", 100))
    else:
        reports = reports[:1]
    again = curate(section, other, tmp_path)
    assert again["outputs"] != reports[-1]["outputs"]


def test_clusters_and_seeding(done, config, tmp_path, monkeypatch):
    """Without what they would compile, which their own tests do."""
    work, clusters, _ = done
    with pytest.raises(ValueError, match=r"clusters was \[24, 4\] and is \[25, 4\]; give"):
        curate("cluster", changed(config, "cluster", clusters=(25, 4)), work)

    def shifted(*given):
        for step in greedy_seeds(*given):
            yield step._replace(centers=step.centers + 1)

    monkeypatch.setitem(cluster_stage.SEEDING, "parallel", shifted)
    found = curate("cluster", changed(config, "cluster", seeding="parallel"), tmp_path)
    assert found["inputs"]["seeding"] == "parallel" and found["outputs"] != clusters["outputs"]


def test_seeds_and_chunks(done, config, tmp_path):
    """Other seeds bring other samples. Chunks bring no other clusters."""
    work, clusters, sample = done
    other = dataclasses.replace(config, seed=1)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cluster").symlink_to(work / "cluster")
    assert curate("sample", other, tmp_path / "a")["outputs"] != sample["outputs"]
    assert curate("cluster", changed(config, "cluster", chunk_rows=2**10), work) == clusters


def test_what_is_sampled_is_mixed(done, config, tmp_path):
    (tmp_path / "sample").symlink_to(done[0] / "sample")
    parts = (
        ("sampled", f"ids:{tmp_path}/sample/selection.parquet:scenes:{sum(SIZES)}"),
        ("seeds", "scenes:20"),
    )
    given = dataclasses.replace(config, mix=MixOptions(parts, homogeneous="seeds"))
    report = curate("mix", given, tmp_path)
    assert report["parts"]["sampled"]["lists"] == [done[2]["fingerprint"]]
    assert report["parts"]["sampled"]["share"] == pytest.approx(0.9, abs=1e-3)
    assert (tmp_path / "mix" / "data.flags").read_text().count("--config.data.") == 4


def test_embed_sees_to_its_devices(tmp_path, monkeypatch):
    """Its model lies on those of its process, not on the mesh of the other stages."""
    monkeypatch.setattr(
        curate_app, "embed_stage", lambda *given: {"mesh": jax.sharding.get_abstract_mesh()}
    )
    assert curate("embed", CurationConfig(), tmp_path)["mesh"].empty


def test_one_process_for_all_other_stages(config, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"stage 'sample' runs in one process and has been start"):
        curate("sample", config, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_tables_do_not_depend_on_chunks_and_files(done, config, folder, tmp_path):
    """Seven chunks from three files, or one."""
    whole = pq.read_table(folder / "features-00000-of-00001.parquet")
    (tmp_path / "rows").mkdir()
    for number, (first, end) in enumerate([(200, 300), (0, 150), (150, 200)]):
        part = whole.slice(first, end - first)
        pq.write_table(part, tmp_path / "rows" / f"{number}.parquet", row_group_size=30)
    given = changed(config, "cluster", seeding="parallel")
    one = curate("cluster", given, tmp_path / "one")
    rows = RowsOptions(str(tmp_path / "rows"))
    given = changed(given, "cluster", rows=rows, chunk_rows=45)
    other = curate("cluster", given, tmp_path / "other")
    assert other["outputs"] == one["outputs"] and other["inputs"] == one["inputs"]


def test_reseeding_is_bound_and_of_every_level(done, config):
    """Here no cluster is empty, so that it would change nothing."""
    other = changed(config, "cluster", reseed_empty=True)
    with pytest.raises(ValueError, match="is of other inputs: reseed_empty was false and is true"):
        curate("cluster", other, done[0])
    assert [level.reseed_empty for level in levels_of(other.cluster)] == [True, True]


def test_a_level_that_is_split(config, tmp_path):
    """Four classes, each in three: all that is left out are clusters without records."""
    given = {"clusters": (4, 4), "rounds": (0, 0), "splits": (3, 1)}
    report = curate("cluster", changed(config, "cluster", **given), tmp_path / "a")
    fine, coarse = report["levels"]
    assert (fine["clusters"], fine["empty"], coarse["clusters"]) == (12, 0, 4)
    assert report["inputs"]["splits"] == [3, 1]
    with pytest.raises(ValueError, match=r"is of other inputs: splits was \[3, 1\] and is \[2, 1"):
        given["splits"] = (2, 1)
        curate("cluster", changed(config, "cluster", **given), tmp_path / "a")


def test_mistakes(config, tmp_path):
    for stage, other, message in (
        ("clusters", config, "stage 'clusters' is unknown; did you mean cluster?"),
        ("cluster", changed(config, "cluster", rounds=(1,)), "one number for each of cluster.clus"),
        (
            "cluster",
            changed(config, "cluster", clusters=(301, 4)),
            "wants 301 clusters of 300 rows",
        ),
        ("cluster", changed(config, "cluster", splits=(2,)), "one number for each of cluster.clus"),
        ("cluster", changed(config, "cluster", splits=(2, 1)), "split=2 and rounds=1 exclude each"),
        ("cluster", changed(config, "cluster", clusters=()), "cluster.clusters is empty"),
        ("cluster", changed(config, "cluster", seeding="x"), "use one of 'greedy', 'parallel'"),
        ("cluster", changed(config, "cluster", chunk_rows=0), "chunk_rows=0 must be at least 1"),
        ("cluster", changed(config, "cluster", chunk_rows=299), "needs all 300 rows in one chunk"),
        ("cluster", changed(config, "cluster", iterations=0), "iterations=0 must be at least 1"),
        ("sample", changed(config, "sample", target=None), "sample.target=None must be at least 1"),
        ("sample", changed(config, "sample", multiplicity=0), "multiplicity=0 must be at least 1"),
    ):
        with pytest.raises(ValueError) as error:
            curate(stage, other, tmp_path)
        assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]  # nothing was claimed


def test_rows_that_cannot_be_numbered(config, monkeypatch, tmp_path):
    """Refused before they are sorted."""
    listing = types.SimpleNamespace(ids=range(2**31))
    monkeypatch.setattr(cluster_stage, "list_records", lambda *given: listing)
    given = changed(config, "cluster", seeding="parallel")
    with pytest.raises(ValueError, match="has 2147483648 rows, and no more than 2147483647 can be"):
        curate("cluster", given, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_the_runner_is_asked_for(done, config, folder, tmp_path):
    """By both stages that have tables for it, before anything is done."""
    given = dataclasses.replace(config, dedup=DedupOptions(RowsOptions(str(folder))))
    (tmp_path / "cluster").symlink_to(done[0] / "cluster")
    for runner, message in (
        (RunnerOptions("beam"), "runner.engine='beam' is unknown; use one of 'local', 'ray'"),
        (RunnerOptions(address="auto"), "runner.address='auto' is of a cluster; use it with"),
    ):
        for stage in ("dedup", "sample"):
            with pytest.raises(ValueError, match=message):
                curate(stage, dataclasses.replace(given, runner=runner), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["cluster"]


def test_features_that_say_nothing(tmp_path):
    """Such as those of an untrained ViT."""
    rows = 1 + 1e-5 * np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    part = Rows([f"r{i}" for i in range(50)], np.zeros(50, np.int32), {"cls": rows})
    (tmp_path / "rows").mkdir()
    write_parquet(tmp_path / "rows" / "a.parquet", [part])
    options = ClusterOptions(RowsOptions(str(tmp_path / "rows")), clusters=(4, 2))
    with pytest.raises(ValueError, match=r"cluster.rows hardly differ: they vary by .*e-1. of"):
        curate("cluster", CurationConfig(cluster=options), tmp_path / "work")
    assert not list(tmp_path.glob("work/cluster_rows/rows*"))


def test_configurations():
    with pytest.raises(ValueError, match=r"unknown key cluster.cluster; did you mean cluster.clus"):
        parse_config(_with({"cluster": {"cluster": (3,)}}))
    with pytest.raises(ValueError, match=r"sample.target='x' has the wrong type"):
        parse_config(_with({"sample": {"target": "x"}}))
    assert parse_config(default_config()) == CurationConfig()
    path = Path(__file__).parent.parent / "configs" / "curation" / "scenes.py"
    spec = importlib.util.spec_from_file_location("scenes", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    walk = parse_config(module.get_config())
    assert walk.sample.target == 100
    names = {name for name, _ in walk.embed.sources}
    read = (walk.dedup.rows, walk.cluster.rows, walk.retrieve.rows, walk.retrieve.seeds)
    folders = {Path(given.folder or "") for given in read} | set(map(Path, walk.dedup.references))
    assert folders == {Path(f"runs/curated/embed/{name}") for name in names}
    assert walk.mix.homogeneous in dict(walk.mix.parts)


def _with(values):
    from ml_collections import ConfigDict

    return ConfigDict(values)
