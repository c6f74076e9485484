"""Sweeps here and on clusters: how many at a time, what is left out, what happens to failures."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from expand import load
from sweep import main

from dinojax.config import to_dict
from dinojax.runtime.contract import config_hash

# ml_collections loads a config in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
ROOT = Path(__file__).parents[2]
RECIPE = "configs/dinov3_vitl16_in1k.py:debug"
# A run: its seed is in $seed, its directory $workdir; it has started, and is over after a while.
RUN = """
for given; do case $given in
  --workdir=*) workdir=${given#*=} ;;
  --config.train.seed=*) seed=${given#*=} ;;
esac; done
touch "$workdir/up"
for try in $(seq 200); do  # until those that run beside it are there, which a busy machine delays
  ls "$workdir"/../*/up | wc -l > "$workdir/together"
  [ "$(cat "$workdir/together")" -lt "${BESIDE:-1}" ] || break
  sleep 0.05
done
sleep 0.5
rm "$workdir/up"
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch, fakes):
    """A sweep of four seeds, and fakes to run it."""
    monkeypatch.chdir(ROOT)
    for name, value in fakes.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # Traces the model, once a run; tests/launch/test_expand.py does.
    monkeypatch.setattr("expand.validate", lambda config, batch_shards: None)
    file = tmp_path / "sweep.py"
    file.write_text(
        f"CONFIG = {RECIPE!r}\n\ndef get_sweep():\n"
        "    for seed in range(4):\n        yield {'train.seed': seed}\n"
    )
    return ["run", str(file), f"--workdir={tmp_path}/runs"]


def line(tmp_path, seed: int) -> list[str]:
    workdir = f"{tmp_path}/runs/train.seed={seed}"
    options = [f"--config={RECIPE}", f"--workdir={workdir}", f"--config.train.seed={seed}"]
    return ["-m", "dinojax.train", *options]


def finish(tmp_path, seed: int) -> None:
    """As a run would that was started by the sweep."""
    config = to_dict(load(RECIPE, [f"--config.train.seed={seed}"]))
    contract = {"config": config, "config_hash": config_hash(config)}
    contract |= {"data_fingerprint": {}, "versions": {}, "history": []}
    workdir = tmp_path / "runs" / f"train.seed={seed}"
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(contract))
    (workdir / "summary.json").write_text("{}")


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_runs_here(sweep, fakes, tmp_path, monkeypatch, capsys, at_a_time):
    monkeypatch.setenv("BESIDE", str(at_a_time))
    monkeypatch.setenv("DOES", RUN + 'echo hello; [ "$seed" != 2 ] || exit 3')
    assert main([*sweep, f"--at_a_time={at_a_time}"]) == 1
    assert sorted(fakes.calls("python")) == [line(tmp_path, seed) for seed in range(4)]
    together = [int(file.read_text()) for file in tmp_path.glob("runs/*/together")]
    assert len(together) == 4 and max(together) == at_a_time
    output = capsys.readouterr().out
    assert shlex.join(["python", *line(tmp_path, 3)]) in output
    log = tmp_path / "runs" / "train.seed=2" / "train.log"
    assert f"train.seed=2: ended with 3, see {log}" in output
    assert "train.seed=3: finished" in output  # a failure does not end the sweep
    assert "hello\n" in log.read_text()


def test_each_gpu_has_one_run_at_a_time(sweep, fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("DOES", RUN + 'echo "$CUDA_VISIBLE_DEVICES" > "$workdir/gpu"')
    assert main([*sweep, "--gpus=1,3"]) == 0
    gpus = [file.read_text() for file in sorted(tmp_path.glob("runs/*/gpu"))]
    assert sorted(gpus[:2]) == ["1\n", "3\n"] and set(gpus) == {"1\n", "3\n"}


def test_finished_runs_are_left_out_and_others_resumed(sweep, fakes, tmp_path, capsys):
    finish(tmp_path, 1)
    finish(tmp_path, 2)
    (tmp_path / "runs" / "train.seed=2" / "summary.json").unlink()  # started only
    assert main(sweep) == 0
    assert fakes.calls("python") == [line(tmp_path, seed) for seed in (0, 2, 3)]
    assert "4 runs, 1 of them finished" in capsys.readouterr().out


@pytest.mark.parametrize("on", ["here", "slurm", "gke"])
def test_dry_runs_print_the_lines_and_touch_nothing(sweep, fakes, tmp_path, capsys, on):
    assert main([*sweep, f"--on={on}", "--image=i", "--topology=v5e:4x4", "--dry_run"]) == 0
    output = capsys.readouterr().out
    for seed in range(4):
        assert output.count(shlex.join(["python", *line(tmp_path, seed)])) == 1
    assert not (tmp_path / "runs").exists() and not fakes.calls_file.exists()


def test_an_array_job(sweep, fakes, tmp_path):
    """Each task, run as SLURM would, starts its run."""
    finish(tmp_path, 1)
    options = ["--on=slurm", "--at_a_time=2", "--sbatch=--nodes=2 --comment='a b'"]
    assert main([*sweep, *options]) == 0
    ((array, _, *given, script, runs),) = fakes.calls("sbatch")
    assert (array, given) == ("--array=0,2,3%2", ["--nodes=2", "--comment=a b"])
    for task in (0, 2, 3):
        fakes.run(script, runs, SLURM_ARRAY_TASK_ID=str(task), SLURM_JOB_ID="1")
    assert [call[-5:] for call in fakes.calls("srun")] == [line(tmp_path, s) for s in (0, 2, 3)]


def test_jobsets(sweep, fakes, tmp_path, capsys):
    finish(tmp_path, 0)
    assert main([*sweep, "--on=gke", "--image=i", "--topology=v5e:4x4"]) == 0
    manifests = list(yaml.safe_load_all(capsys.readouterr().out.partition("\n")[2]))
    assert len({manifest["metadata"]["name"] for manifest in manifests}) == 3
    assert len(fakes.calls("kubectl")) == 3
    sent = yaml.safe_load(Path(f"{fakes.calls_file}.stdin").read_text())
    assert sent == manifests[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--on=gke"], "--on=gke needs --image"),
        (["--at_a_time=0"], "must be at least 1"),
        (["--gpus=0", "--on=slurm"], "--gpus runs here"),
    ],
)
def test_options_that_exclude_each_other(sweep, capsys, options, words):
    with pytest.raises(SystemExit) as stopped:
        main([*sweep, *options])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_nothing_starts_if_one_override_is_wrong(sweep, fakes, tmp_path, capsys):
    file = Path(sweep[1])
    file.write_text(file.read_text() + "    yield {'train.sed': 0}\n")
    assert main(sweep) == 2
    assert "no key 'train.sed'; did you mean train.seed?" in capsys.readouterr().err
    assert not fakes.calls_file.exists() and not (tmp_path / "runs").exists()


def test_no_run_outlives_the_sweep(sweep, fakes, tmp_path):
    does = 'trap "touch $CALLS.saved.$$; exit 4" TERM; touch $CALLS.up.$$; '
    does += "while :; do sleep 0.05; done"
    command = [sys.executable, "launch/sweep.py", *sweep, "--at_a_time=2"]
    process = fakes.start(*command, DOES=does, PYTHONPATH=str(ROOT))
    fakes.wait_for("up", 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 128 + signal.SIGTERM
    assert len(list(tmp_path.glob("calls.saved.*"))) == 2


@pytest.mark.slow
def test_a_real_sweep(sweep, tmp_path, capsys):
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env |= {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    Path(sweep[1]).write_text(
        f"CONFIG = {RECIPE!r}\n\ndef get_sweep():\n"
        "    yield from ({'train.seed': 0}, {'optim.lr.peak': 1e-4})\n"
    )
    command = [sys.executable, "launch/sweep.py", *sweep]
    for started in (2, 0):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count(": finished, ") == started
    assert main(["collect", f"{tmp_path}/runs", "--format=json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted(row["optim.lr.peak"] for row in rows) == [1e-4, 1e-3]
    assert [row["steps"] for row in rows] == [3, 3]
