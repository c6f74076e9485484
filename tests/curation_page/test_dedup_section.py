"""Groups of ``dedup.parquet``: which are shown, and what is said of the image that stands first."""

import pytest

from dinojax.curation.dedup_stage import DedupOptions
from dinojax.curation.tables import write_table
from dinojax.curation_page.dedup_section import dedup_section
from dinojax.curation_page.options import PageOptions
from dinojax.curation_page.sections import Section, Sheet, wanted

GROUPS = {"a": 1, "b": 30, "c": 3, "d": 3, "e": 0}
"""Copies of each; `d` and all that it stands for are like the image r of an evaluation, and `e`."""


@pytest.fixture
def sheets(tmp_path):
    columns = {name: [] for name in ("id", "component", "reference", "kept", "reason")}
    for first, copies in GROUPS.items():
        like = "r" if first in "de" else None
        rows = [(first, like, like is None, None if like is None else "reference")]
        rows += [(f"{first}{n}", None, False, "duplicate") for n in range(copies)]
        for id, reference, kept, reason in rows:
            for name, value in zip(columns, (id, first, reference, kept, reason), strict=True):
                columns[name].append(value)
    write_table(tmp_path / "dedup.parquet", columns)
    report = {"rows_out": 3, "removed": {"duplicate": 37, "reference": 2}, "inputs": {}}

    def make(**options):
        parts = dedup_section(tmp_path, report, PageOptions("x", **options), DedupOptions())
        return parts, [part for part in parts if isinstance(part, Sheet)]

    return make


def test_the_largest_groups_first(sheets):
    """Of equal ones by the id that stands for them; of a large one some, by a draw."""
    _, (copies, _) = sheets(groups=3, tiles=6)
    assert [group.tiles[0].id for group in copies.groups] == ["b", "c", "d"]
    assert [group.title for group in copies.groups] == ["6 of 31 images", "4 images", "4 images"]
    drawn = [tile.id for tile in copies.groups[0].tiles[1:]]
    assert len(set(drawn)) == 5 and drawn != [f"b{n}" for n in range(5)]
    assert drawn == [tile.id for tile in sheets(groups=1, tiles=6)[1][0].groups[0].tiles[1:]]


def test_where_nothing_stays(sheets):
    _, (copies, _) = sheets()
    tiles = {group.tiles[0].id: group.tiles[0] for group in copies.groups}
    assert tiles["a"].mark == "stays" and tiles["a"].words == ""
    assert tiles["d"].mark == "" and tiles["d"].words == "out, too: like r"


def test_images_of_evaluations(sheets):
    """With their pictures where there is a source of them."""
    _, (_, seen) = sheets()
    (group,) = seen.groups
    assert group.title == "2 images like r" and {tile.id for tile in group.tiles} == {"d", "e"}
    parts, (_, seen) = sheets(references=("x",))
    (group,) = seen.groups
    assert group.title == "2 images" and group.tiles[0].mark == "evaluation"
    assert wanted([Section("dedup", parts)])["references"] == ["r"]


def test_no_features(sheets):
    parts, some = sheets()
    assert len(some) == 2 and any("has no features in Parquet" in str(p) for p in parts)
    assert not any(tile.words.startswith("cosine") for g in some[0].groups for tile in g.tiles)
