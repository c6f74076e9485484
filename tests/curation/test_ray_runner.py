"""Ray Data leaves the tables that this process leaves."""

import dataclasses
import subprocess
import sys
import time

import pytest
from curation_inputs import SEED, run_dedup, run_sample, write_inputs

from dinojax.curation import tables
from dinojax.curation.runners import RunnerOptions, make_runner

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("default")  # those of Ray itself


CONFIG = """
from dinojax.config.curation import default_config

def get_config():
    config = default_config()
    config.seed, config.runner.engine = {seed}, "ray"
    config.dedup.rows.folder = "{folder}/pool"
    config.dedup.references = ("{folder}/tests",)
    config.dedup.threshold = {given.threshold}
    config.dedup.reference_threshold = {given.reference_threshold}
    config.dedup.neighbours = {given.neighbours}
    return config
"""


def test_the_address_is_that_of_the_configuration(monkeypatch):
    """Ray is left, if it was entered here."""
    calls = []
    monkeypatch.setattr(ray, "init", lambda **given: calls.append(given["address"]))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("left"))
    with make_runner(RunnerOptions("ray", "ray://head:10001")):
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        with make_runner(RunnerOptions("ray", "ray://head:10001")):
            pass
    assert calls == ["ray://head:10001", "left"]


@pytest.fixture(scope="module")
def cluster():
    """One worker."""
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=2**27,
        log_to_driver=False,
        logging_level="error",
    )
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("name, run", [("sample", run_sample), ("dedup", run_dedup)])
def test_the_same_tables(cluster, name, run, monkeypatch, tmp_path):
    """From several shards; in dedup with a component that is too large."""
    inputs = write_inputs(tmp_path)
    monkeypatch.setattr(tables, "GROUP_ROWS", 70)
    local = run(inputs, tmp_path / "local")
    assert run(inputs, tmp_path / "ray", "ray") == local
    for path in (tmp_path / "local").glob("*.parquet"):
        assert (tmp_path / "ray" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_nothing_is_like_anything(cluster, tmp_path):
    """The tables of pairs have no rows."""
    inputs = write_inputs(tmp_path)
    alone = inputs._replace(
        dedup=dataclasses.replace(inputs.dedup, threshold=0.9999, reference_threshold=0.9999)
    )
    local = run_dedup(alone, tmp_path / "local")
    assert local["removed"] == {"duplicate": 0, "reference": 0}
    assert run_dedup(alone, tmp_path / "ray", "ray") == local


@pytest.mark.slow
def test_killed_and_run_again_without_it(tmp_path):
    """By SIGKILL, between its two searches, and the same tables here."""
    inputs, work = write_inputs(tmp_path), tmp_path / "work"
    (tmp_path / "config.py").write_text(
        CONFIG.format(seed=SEED, folder=tmp_path, given=inputs.dedup)
    )
    command = [sys.executable, "-m", "dinojax.curate", "dedup", f"--workdir={work}"]
    process = subprocess.Popen([*command, f"--config={tmp_path}/config.py"], start_new_session=True)
    try:
        while not (work / "dedup" / "groups.parquet").exists():
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert not (work / "dedup" / "report.json").exists()
    assert run_dedup(inputs, work / "dedup") == run_dedup(inputs, tmp_path / "local")
