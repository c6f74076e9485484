"""The order of snapshots, and the file that keeps it."""

import json

import pytest

from dinojax.evaluation.snapshot_scores import (
    FILE,
    Snapshot,
    Table,
    as_text,
    read_table,
    write_table,
)


def table(*scores: dict[str, float]) -> Table:
    found = [Snapshot(100 * i, f"{i:016x}", one) for i, one in enumerate(scores, 1)]
    return Table({"image_px": 64, "ignore": [255]}, tuple(found))


def test_miou_goes_before_locality():
    found = table(
        {"locality": 0.9, "drift": 0.1, "miou": 0.2},
        {"locality": 0.5, "drift": 0.3, "miou": 0.4},
        {"locality": 0.3, "drift": 0.5, "miou": 0.3},
    )
    assert found.criterion == "miou"
    assert [one.step for one in found.ranked()] == [200, 300, 100]
    assert [one.step for one in found.ranked(last_step=199)] == [100]


def test_without_maps_locality_decides_and_kNN_never():  # noqa: N802
    found = table({"locality": 0.6, "knn": 0.1}, {"locality": 0.5, "knn": 0.9})
    assert found.criterion == "locality" and found.ranked()[0].step == 100


def test_an_order_that_is_asked_for():
    found = table({"locality": 0.6, "miou": 0.1}, {"locality": 0.5, "miou": 0.9})
    assert found._replace(by="locality").ranked()[0].step == 100
    with pytest.raises(ValueError, match="cannot be ordered by knn, which not all have; use one"):
        found._replace(by="knn").ranked()
    part = table({"locality": 0.6, "miou": 0.1}, {"locality": 0.7})
    assert part.criterion == "locality"
    with pytest.raises(ValueError, match="cannot be ordered by miou"):
        part._replace(by="miou").ranked()
    with pytest.raises(ValueError, match="cannot be ordered by miou or locality"):
        table({"knn": 0.5}).ranked()


def test_of_equal_ones_the_later_is_better():
    found = table({"locality": 0.5}, {"locality": 0.5}, {"locality": 0.4})
    assert [one.step for one in found.ranked()] == [200, 100, 300]


def test_the_file(tmp_path):
    assert read_table(tmp_path) is None
    written = table({"locality": 0.25, "miou": 0.1}, {"locality": 0.125, "miou": 0.7})
    write_table(tmp_path, written)
    assert read_table(tmp_path) == written._replace(by="miou")
    write_table(tmp_path, written._replace(by="locality"))
    assert json.loads((tmp_path / FILE).read_text())["recommended"] == 100
    found = read_table(tmp_path)
    assert found is not None and found.ranked()[0].step == 100
    write_table(tmp_path, written)
    content = json.loads((tmp_path / FILE).read_text())
    assert content["recommended"] == 200 and content["criterion"] == "miou"
    assert content["protocol"] == {"image_px": 64, "ignore": [255]}
    first = content["snapshots"][0]
    assert first == {"step": 100, "fingerprint": "0" * 15 + "1", "scores": written[1][0].scores}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"protocol": {}}', '{"protocol": {}, "snapshots": [{"step": 1}]}']
)
def test_a_damaged_file(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=r"snapshots.json is damaged \(.*; delete it and score"):
        read_table(tmp_path)


def test_weights_are_known_by_step_and_fingerprint():
    found = table({"locality": 0.5})
    assert found.of(100, f"{1:016x}") == found.snapshots[0]
    assert found.of(100, f"{2:016x}") is None and found.of(200, f"{1:016x}") is None


def test_text():
    lines = as_text(
        table({"locality": 0.25, "drift": 0.5}, {"locality": 0.75, "drift": 0.25})
    ).splitlines()
    assert [line.split() for line in lines] == [
        ["rank", "step", "locality", "drift"],
        ["1", "200", "0.7500", "0.2500"],
        ["2", "100", "0.2500", "0.5000"],
    ]
