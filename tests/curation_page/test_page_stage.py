"""What a curation did, on one page: what was planted is there, and the numbers are the reports'."""

import base64
import dataclasses
import io
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from curated_pages import (
    ALMOST,
    COPIED,
    COPY,
    FAR,
    LARGE,
    NAMES,
    SEEN,
    Page,
    make_pool,
    rows,
    write_rows,
)
from PIL import Image

from dinojax.curate import curate
from dinojax.curation.embeddings import RowsOptions
from dinojax.curation.tree import read_tree

STAGES = ("dedup", "cluster", "sample", "retrieve")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_pool(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def work(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("curated")
    for stage in STAGES:
        curate(stage, config, folder)
    return folder


@pytest.fixture(scope="module")
def page(config, work):
    curate("page", config, work)
    return Page((work / "page" / "index.html").read_text())


def changed(config, **values):
    return dataclasses.replace(config, page=dataclasses.replace(config.page, **values))


def ids(group):
    return [tile.id for tile in group[1]]


def test_stages(page, work):
    assert page.sections == ["Stages", *STAGES]
    head, *lines = page.tables["Stages"]
    assert head[:3] == ["stage", "in", "out"] and [line[0] for line in lines] == list(STAGES)
    for name, before, after, *_, fingerprint in lines:
        report = json.loads((work / name / "report.json").read_text())
        assert (before, after) == (str(report["rows_in"]), str(report["rows_out"]))
        assert fingerprint == report["fingerprint"]
    inputs = dict(page.tables["dedup"][1:])
    assert inputs["inputs.threshold"] == "0.8" and inputs["removed.duplicate"] == "2"


def test_copies(page):
    """The group that was planted, the one that stays first, the least similar one next."""
    (group,) = page.sheet("dedup", "Copies").groups
    assert group[0] == "3 images"
    assert ids(group) == [COPIED, FAR, COPY]
    assert [tile.marked for tile in group[1]] == [True, False, False]
    assert ["stays" in tile.text for tile in group[1]] == [True, False, False]
    assert "cosine 0.850" in group[1][1].text and "cosine 0.950" in group[1][2].text


def test_images_of_evaluations(page):
    (group,) = page.sheet("dedup", "Like images of evaluations").groups
    assert ids(group) == ["seen.png", SEEN] and group[0] == ""
    assert group[1][0].marked and "evaluation" in group[1][0].text
    assert "cosine 1.000" in group[1][1].text


def test_pairs_near_the_thresholds(page):
    above = page.sheet("dedup", "Just above the threshold of 0.8").groups
    assert above[0][0] == "cosine 0.8075" and set(ids(above[0])) == {COPY, FAR}
    below = page.sheet("dedup", "Just below the threshold of 0.8").groups
    assert below[0][0] == "cosine 0.7500" and set(ids(below[0])) == {NAMES[1], ALMOST}
    (taken,) = page.sheet("dedup", "Like an evaluation's image, just above").groups
    assert ids(taken) == [SEEN, "seen.png"] and taken[0] == "cosine 1.0000"
    left = page.sheet("dedup", "Like an evaluation's image, just below").groups
    assert SEEN not in ids(left[0])


def test_clusters(page, work):
    """All are shown, as there are few; of each the nearest to the centre come first."""
    tree = read_tree(work / "cluster", 2)
    groups = [
        group
        for title in ("the largest", "the smallest", "some others")
        for part in page.parts
        if part.title == f"Level 1: {title}"
        for group in part.groups
    ]
    numbers = [int(title.split()[1].strip(":")) for title, _ in groups]
    assert sorted(numbers) == sorted(set(tree.parents[0].tolist()))
    place = {id: n for n, id in enumerate(tree.ids)}
    for number, group in zip(numbers, groups, strict=True):
        places = [place[id] for id in ids(group)]
        assert {tree.parents[0][p] for p in places} == {number}
        members = np.flatnonzero(tree.parents[0] == number)
        distances = tree.distance[places]
        assert (np.diff(distances) >= 0).all() and len(places) == min(len(members), 8)
        assert distances[0] == tree.distance[members].min()
    counts = page.tables["cluster"][1]
    report = json.loads((work / "cluster" / "report.json").read_text())["levels"][0]
    assert counts[:3] == ["1", str(report["clusters"]), str(report["empty"])]
    assert counts[3] == str(report["records"]["least"])
    assert counts[-2:] == [str(report["records"]["most"]), f"{report['evenness']['effective']:.1f}"]


def test_upper_clusters_show_the_middle_of_each_lower_one(page, work):
    tree = read_tree(work / "cluster", 2)
    place = {id: n for n, id in enumerate(tree.ids)}
    (group, *_) = page.sheet("cluster", "Level 2: the largest").groups
    lower = [int(tree.parents[0][place[id]]) for id in ids(group)]
    number = int(group[0].split()[1].strip(":"))
    children = np.flatnonzero(tree.parents[1] == number)
    held = [child for child in children.tolist() if (tree.parents[0] == child).any()]
    first = lower[: len(held)]
    assert sorted(first) == sorted(held)
    for id in ids(group)[: len(held)]:
        siblings = tree.parents[0] == tree.parents[0][place[id]]
        assert tree.distance[place[id]] == tree.distance[siblings].min()


def test_balance_is_that_of_the_report(page, work):
    report = json.loads((work / "sample" / "report.json").read_text())
    head, *lines = page.tables["sample"][:4]
    assert head == ["", "groups", "effective", "divergence"]
    for name, groups, effective, divergence in lines:
        one = report["balance"][name.replace(" ", "_")]
        for text, key, kind in (
            (groups, "groups", ""),
            (effective, "effective", ".1f"),
            (divergence, "divergence", ".3f"),
        ):
            before, after = one["before"][key], one["after"][key]
            assert text == f"{before:{kind}} \N{RIGHTWARDS ARROW} {after:{kind}}"
    taken = {tile.id for tile in page.sheet("sample", "Taken").groups[0][1]}
    left = {tile.id for tile in page.sheet("sample", "Left out").groups[0][1]}
    selection = set(pq.read_table(work / "sample" / "selection.parquet")["id"].to_pylist())
    assert taken == selection and len(left) == 35 - 12 and not left & selection
    large = sum(id.startswith(LARGE) for id in selection)
    assert f"24 \N{RIGHTWARDS ARROW} {large}" in page.text


def test_retrieval(page, work):
    groups = page.sheet("retrieve", "Asked for by seeds").groups
    found = {ids(group)[0]: ids(group)[1:] for group in groups}
    assert found["seed.png"][0] == NAMES[5] and all(len(near) == 2 for near in found.values())
    assert all(group[1][0].marked for group in groups)
    (often,) = page.sheet("retrieve", "Taken, most often first").groups
    selection = pq.read_table(work / "retrieve" / "selection.parquet").to_pylist()
    assert set(ids(often)) == {row["id"] for row in selection}
    times = {row["id"]: row["multiplicity"] for row in selection}
    assert [times[id] for id in ids(often)] == sorted(times.values(), reverse=True)
    assert all(near in times for some in found.values() for near in some)


def test_one_file_that_escapes_and_stays_the_same(page, config, work):
    text = (work / "page" / "index.html").read_text()
    assert "<i>" not in text and "i" not in page.tags and LARGE in page.text
    assert "http" not in text.replace("http-equiv", "")
    tiles = [tile for part in page.parts for _, some in part.groups for tile in some]
    assert all(tile.image.startswith("data:image/jpeg;base64,") for tile in tiles)
    assert curate("page", config, work)["images"] == len({(t.id, t.image) for t in tiles})
    assert (work / "page" / "index.html").read_text() == text


def test_how_much_is_shown(config, work):
    """The options bound groups, clusters, tiles and their size."""
    curate("page", changed(config, groups=1, clusters=1, tiles=2, tile_px=16), work)
    small = Page((work / "page" / "index.html").read_text())
    image = small.parts[0].groups[0][1][0].image.partition("base64,")[2]
    assert max(Image.open(io.BytesIO(base64.b64decode(image))).size) == 16
    for part in small.parts:
        loose = part.title in ("Taken", "Left out", "Taken, most often first")
        assert len(part.groups) == 1 and len(part.groups[0][1]) <= (6 if loose else 2)
    assert small.sheet("dedup", "Copies").groups[0][0] == "2 of 3 images"


def test_without_other_sources(config, work):
    curate("page", changed(config, references=(), seeds=None), work)
    page = Page((work / "page" / "index.html").read_text())
    (group,) = page.sheet("dedup", "Like images of evaluations").groups
    assert ids(group) == [SEEN] and group[0] == "1 image like seen.png"
    titles = {part.title for part in page.parts}
    assert not [t for t in titles if t.startswith(("Like an evaluation's", "Asked for"))]


def test_stages_that_are_not_there(config, work, tmp_path):
    """What is finished is shown: a stage that is not known by its report alone."""
    shutil.copytree(work / "dedup", tmp_path / "dedup")
    (tmp_path / "cluster").mkdir()  # begun
    (tmp_path / "mix").mkdir()
    mix = {"rows_in": 5, "rows_out": 4, "inputs": {"<parts>": [1, 2]}, "seconds": {"all": 2.5}}
    (tmp_path / "mix" / "report.json").write_text(json.dumps(mix))
    assert curate("page", config, tmp_path)["stages"] == ["dedup", "mix"]
    page = Page((tmp_path / "page" / "index.html").read_text())
    assert page.sections == ["Stages", "dedup", "mix"]
    assert page.tables["Stages"][-1][:5] == ["mix", "5", "4", "80.0 %", "2.5"]
    assert ["inputs.<parts>", "[1, 2]"] in page.tables["mix"]


def test_features_that_have_gone(config, work):
    gone = dataclasses.replace(config.dedup, rows=RowsOptions("/nowhere"))
    curate("page", dataclasses.replace(config, dedup=gone), work)
    page = Page((work / "page" / "index.html").read_text())
    assert "dedup.rows.folder has no features in Parquet now" in page.text
    (group,) = page.sheet("dedup", "Copies").groups
    assert ids(group)[0] == COPIED and "cosine" not in page.sheet("dedup", "Copies").title
    assert not any("cosine" in tile.text for tile in group[1])


def test_images_that_cannot_be_read(config, work, tmp_path):
    """A tile says why; the page is whole."""
    pool = tmp_path / "pool"
    shutil.copytree(config.page.source.removeprefix("folder:"), pool)
    (pool / COPY).write_bytes(b"no image")
    report = curate("page", changed(config, source=f"folder:{pool}"), work)
    page = Page((work / "page" / "index.html").read_text())
    tile = page.sheet("dedup", "Copies").groups[0][1][2]
    assert tile.id == COPY and not tile.image and "cannot be decoded" in tile.text
    assert report["without_picture"] == 1


def test_mistakes(config, work, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no finished stage to show; run python -m dinoj"):
        curate("page", config, tmp_path)
    tests = config.page.references[0]
    wrong = dataclasses.replace(
        config.dedup, rows=RowsOptions(write_rows(tmp_path / "x", {"x": rows()[COPY]}))
    )
    for other, message in (
        (changed(config, source=None), "page.source=None has no images; give the source"),
        (changed(config, tiles=1), "page.tiles=1 must lie in 2..100; use 8"),
        (changed(config, groups=0), "page.groups=0 must lie in"),
        (changed(config, clusters=0), "page.clusters=0 must lie in"),
        (changed(config, tile_px=4096), "page.tile_px=4096 must lie in 16..512; use 112"),
        (changed(config, channels=0), "page.channels=0 must lie in"),
        (changed(config, source=tests), f"page.source={tests} has no record"),
        (changed(config, references=(config.page.source,)), "has no record 'seen.png', and lacks"),
        (dataclasses.replace(config, dedup=wrong), "dedup.rows: 4 of the ids that are shown have"),
    ):
        with pytest.raises(ValueError) as error:
            curate("page", other, work)
        assert message in str(error.value)


def test_a_sample_of_another_tree(config, work, tmp_path):
    for stage in ("cluster", "sample"):
        shutil.copytree(work / stage, tmp_path / stage)
    path = tmp_path / "sample" / "report.json"
    report = json.loads(path.read_text())
    report["inputs"]["tree"] = "0" * 16
    path.write_text(json.dumps(report))
    with pytest.raises(ValueError, match=r"sample is of another tree than .*cluster; delete it"):
        curate("page", config, tmp_path)
    shutil.rmtree(tmp_path / "cluster")
    with pytest.raises(FileNotFoundError, match=r"run python -m dinojax.curate cluster first"):
        curate("page", config, tmp_path)
