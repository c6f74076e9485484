"""All stages at a glance, whatever their reports hold."""

import json

import pytest
from curated_pages import Page

from dinojax.curation_page.overview import details, finished, overview

COUNTS = {"rows_in": 8, "rows_out": 6}
REPORTS = {
    "embed": {
        "fingerprint": "f0",
        "inputs": {"pool": {"model": "x"}},
        "sources": {"pool": COUNTS, "test": {"rows_in": 3, "rows_out": 3}},
    },
    "dedup": {"fingerprint": "f1", **COUNTS, "seconds": {"all": 1.25}, "removed": {"<a>": 2}},
    "mix": {"steps": 3, "parts": {"a": {"weight": 0.5}}},
    "other": {"outputs": {}, "rows_in": 0, "rows_out": 0},
}


def test_the_order_of_work(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run python -m dinojax.curate dedup first"):
        finished(tmp_path)
    for name in ("other", "mix", "dedup", "embed", "begun"):
        (tmp_path / name).mkdir()
        if name in REPORTS:
            (tmp_path / name / "report.json").write_text(json.dumps(REPORTS[name]))
    assert list(finished(tmp_path).items()) == list(REPORTS.items())


def test_counts():
    """Of a stage, or else of its parts; of some there are none."""
    text = overview(REPORTS)
    assert Page(text).tables["Stages"][1:] == [
        ["embed pool", "8", "6", "75.0 %", "", "f0"],
        ["embed test", "3", "3", "100.0 %", "", ""],
        ["dedup", "8", "6", "75.0 %", "1.2", "f1"],
        ["mix", "", "", "", "", ""],
        ["other", "0", "0", "", "", ""],
    ]
    assert text.count('<rect class="before"') == 4
    assert "<svg" not in overview({"mix": REPORTS["mix"]})


def test_details():
    text = "<h2>x</h2>" + details(REPORTS["dedup"] | {"levels": [1], "outputs": {"t": "h"}})
    assert Page(text).tables["x"][1:] == [
        ["fingerprint", "f1"],
        ["rows_in", "8"],
        ["rows_out", "6"],
        ["seconds.all", "1.25"],
        ["removed.<a>", "2"],
    ]
