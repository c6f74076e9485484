"""A gigabyte of features is clustered in a fraction of it."""

import json

import hosts
import pytest


@pytest.mark.slow
def test_features_are_not_held(tmp_path):
    given = [str(tmp_path), str(2**20), "256"]
    (done,) = hosts.wait([hosts.launch(["tests/cluster_memory.py", *given])])
    assert done.code == 0, done.err
    found = json.loads(done.out.splitlines()[-1])
    assert found["features"] > 1000 and found["most"] - found["before"] < 0.6 * found["features"]
