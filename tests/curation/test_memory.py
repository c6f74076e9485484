"""A gigabyte of features is clustered, searched and compared in a fraction of it."""

import json

import hosts
import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "rows", "width"),
    [("cluster", 2**20, 256), ("dedup", 2**18, 1024), ("retrieve", 2**18, 1024)],
)
def test_features_are_not_held(stage, rows, width, tmp_path):
    if stage == "dedup":
        pytest.importorskip("faiss")
    given = [stage, str(tmp_path), str(rows), str(width)]
    (done,) = hosts.wait([hosts.launch(["tests/curation_memory.py", *given])])
    assert done.code == 0, done.err
    found = json.loads(done.out.splitlines()[-1])
    assert found["features"] > 1000 and found["most"] - found["before"] < 0.6 * found["features"]
