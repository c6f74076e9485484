"""The shell scripts: one line on every machine, signals, exit codes, what is queued again."""

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import jobset
import pytest
import sweep

from dinojax.runtime.exits import RESUMABLE

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(ROOT.glob("launch/*.sh")) + sorted(ROOT.glob("launch/*.sbatch"))
GIVEN = ["configs/quickstart.py", "runs/a b", "--config.crops.local_crops_scale=(0.1, 0.5)"]
LINE = ["-m", "dinojax.train", f"--config={GIVEN[0]}", f"--workdir={GIVEN[1]}", GIVEN[2]]
CLOUD = {"ZONE": "us-west4-a", "CLUSTER": "c", "IMAGE": "i"}
COMMANDS = {
    "local": ["launch/local.sh"],
    "ssh": ["launch/ssh.sh", "node1"],
    "slurm": ["launch/slurm.sbatch"],
    "xpk": ["launch/xpk.sh", "vitl16", "v5litepod-16"],
    "tpu_vm": ["launch/tpu_vm.sh", "run", "vitl16"],
}
each_launcher = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)


def place(coordinator: str, processes: int, process: int) -> list[str]:
    numbers = [f"--num_processes={processes}", f"--process_id={process}"]
    return [f"--coordinator={coordinator}", *numbers]


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.name for path in SCRIPTS])
def test_shellcheck(script):
    options = ["--external-sources", "--source-path=SCRIPTDIR"]
    found = subprocess.run(
        ["shellcheck", *options, script], capture_output=True, text=True, cwd=ROOT
    )
    assert found.returncode == 0, found.stdout + found.stderr


@each_launcher
def test_dry_runs_print_the_line_and_start_nothing(fakes, command):
    shown = fakes.run(*command, *GIVEN, DRY_RUN="1", **CLOUD)
    assert shown.returncode == 0, shown.stderr
    lines = [shlex.split(line) for line in shown.stdout.splitlines()]
    # SLURM's srun goes before it, what a process must know about the others behind it.
    found = [line[line.index("python") :] for line in lines if "python" in line]
    assert [line[: len(LINE) + 1] for line in found] == [["python", *LINE]]
    assert not fakes.calls_file.exists()


@each_launcher
def test_too_few_arguments_print_the_usage(fakes, command):
    refused = fakes.run(*command, "configs/quickstart.py", **CLOUD)
    assert refused.returncode == 2
    assert f"{command[0]} " in refused.stderr and "WORKDIR" in refused.stderr
    assert "set -euo" not in refused.stderr and not fakes.calls_file.exists()


def test_local_runs_the_line(fakes):
    assert fakes.run("launch/local.sh", *GIVEN, DOES="exit 3").returncode == 3
    assert fakes.calls("python") == [LINE]


def test_local_processes_share_the_gpus(fakes):
    ended = fakes.run("launch/local.sh", *GIVEN, PROCESSES="2", PORT="7", GPUS="0 1 2 3")
    assert ended.returncode == 0, ended.stderr
    expected = [LINE + place("localhost:7", 2, process) for process in (0, 1)]
    assert sorted(fakes.calls("python")) == expected
    seen = [Path(f"{fakes.calls_file}.gpus.{process}").read_text() for process in (0, 1)]
    assert seen == ["0,1\n", "2,3\n"]
    # Those that are visible, if it is said which.
    fakes.run("launch/local.sh", *GIVEN, PROCESSES="2", GPUS="0 1 2 3", CUDA_VISIBLE_DEVICES="5,7")
    assert Path(f"{fakes.calls_file}.gpus.1").read_text() == "7\n"
    hidden = fakes.run(
        "launch/local.sh", *GIVEN, PROCESSES="2", GPUS="0 1 2 3", CUDA_VISIBLE_DEVICES=""
    )
    assert hidden.returncode == 0, hidden.stderr
    assert Path(f"{fakes.calls_file}.gpus.1").read_text() == "\n"
    refused = fakes.run("launch/local.sh", *GIVEN, PROCESSES="3", GPUS="0 1 2 3")
    assert refused.returncode == 2 and "PROCESSES=3 must divide the 4 GPUs" in refused.stderr


def test_the_highest_status_counts(fakes):
    does = 'case "$*" in *process_id=0) exit 4;; *) exit 2;; esac'
    assert fakes.run("launch/local.sh", *GIVEN, PROCESSES="3", DOES=does).returncode == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_all_local_processes_and_their_status_comes_back(fakes, number):
    """Each needs a while to save; what counts is how the run ends, not that the script was told."""
    does = "trap 'sleep 0.3; exit 4' TERM; touch $CALLS.up.$$; while :; do sleep 0.05; done"
    process = fakes.start("launch/local.sh", *GIVEN, PROCESSES="2", DOES=does)
    fakes.wait_for("up", 2)
    process.send_signal(number)
    assert process.wait(timeout=60) == 4


def test_ssh_runs_the_line_on_every_host(fakes, tmp_path):
    """The fake runs what it gets in a shell, as sshd does."""
    hosts = "me@node1,node2,node3"
    env = {"DIR": str(tmp_path), "SETUP": "export DOES='pwd > $CALLS.pwd'"}
    assert fakes.run("launch/ssh.sh", hosts, *GIVEN, **env).returncode == 0
    expected = [LINE + place("node1:12355", 3, process) for process in range(3)]
    assert sorted(fakes.calls("python")) == expected
    assert sorted(host for host, _ in fakes.calls("ssh")) == ["me@node1", "node2", "node3"]
    assert Path(f"{fakes.calls_file}.pwd").read_text() == f"{tmp_path}\n"


def test_ssh_ends_the_run_on_every_host(fakes):
    """What is looked for there is this run and no other, and not the shell that looks."""
    does = "touch $CALLS.up.$$; while [ ! -e $CALLS.stop ]; do sleep 0.05; done; exit 4"
    process = fakes.start("launch/ssh.sh", "node1,node2", *GIVEN, DOES=does)
    fakes.wait_for("up", 2)
    process.terminate()
    fakes.wait_for("asked", 2)
    Path(f"{fakes.calls_file}.stop").touch()
    assert process.wait(timeout=60) == 4
    for option, full, pattern in fakes.calls("pkill"):
        assert (option, full) == ("-TERM", "-f")
        line = shlex.join(["python", *LINE[:4]]).replace("'", "")
        assert re.search(pattern, f"{line} --coordinator=node1:12355")
        assert not re.search(pattern, f"{line}2 --coordinator=node1:12355")
        assert not re.search(pattern, f"bash -c exec {line} --coordinator=node1:12355")


SLURM = {"SLURM_JOB_ID": "17", "SLURM_CPUS_ON_NODE": "96", "SLURM_SUBMIT_DIR": str(ROOT)}


def test_slurm_runs_the_line_with_all_cores(fakes):
    """From a copy, which is what SLURM runs."""
    copy = fakes.bin / "slurm_script"
    copy.write_bytes((ROOT / "launch/slurm.sbatch").read_bytes())
    copy.chmod(0o700)
    assert fakes.run(str(copy), *GIVEN, **SLURM).returncode == 0
    (arguments,) = fakes.calls("srun")
    assert arguments[-len(LINE) - 1 :] == ["python", *LINE]
    assert "--cpus-per-task=96" in arguments
    assert not fakes.calls("scontrol")
    # One task for each of eight GPUs.
    assert fakes.run(str(copy), *GIVEN, **SLURM, SLURM_NTASKS_PER_NODE="8").returncode == 0
    assert "--cpus-per-task=12" in fakes.calls("srun")[1]


@pytest.mark.parametrize(
    ("status", "restarts", "again"), [(4, 0, True), (143, 99, True), (2, 0, False), (4, 100, False)]
)
def test_slurm_queues_again_what_can_resume(fakes, status, restarts, again):
    env = SLURM | {"SRUN_STATUS": str(status), "SLURM_RESTART_COUNT": str(restarts)}
    assert fakes.run("launch/slurm.sbatch", *GIVEN, **env).returncode == status
    assert fakes.calls("scontrol") == ([["requeue", "17"]] if again else [])


def test_slurm_takes_the_arguments_of_an_array_task_from_a_file(fakes, tmp_path):
    lines = [["other.py", "runs/other"], GIVEN]
    (tmp_path / "runs.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    env = SLURM | {"SLURM_ARRAY_TASK_ID": "1"}
    assert fakes.run("launch/slurm.sbatch", f"--runs={tmp_path}/runs.tsv", **env).returncode == 0
    assert fakes.calls("srun")[0][-len(LINE) :] == LINE


def test_xpk_gets_the_line_for_a_shell(fakes):
    assert fakes.run(*COMMANDS["xpk"], *GIVEN, **CLOUD).returncode == 0
    (arguments,) = fakes.calls("xpk")
    options = dict(option.split("=", 1) for option in arguments if option.startswith("--"))
    assert arguments[:2] == ["workload", "create"]
    assert (options["--workload"], options["--tpu-type"]) == ("vitl16", "v5litepod-16")
    assert set(options["--restart-on-exit-codes"].split(",")) == {str(code) for code in RESUMABLE}
    fakes.run("bash", "-c", options["--command"])
    assert fakes.calls("python") == [LINE]


def test_tpu_vms_get_the_line_for_a_shell(fakes, tmp_path):
    assert fakes.run(*COMMANDS["tpu_vm"], *GIVEN, **CLOUD).returncode == 0
    (arguments,) = fakes.calls("gcloud")
    assert arguments[:5] == ["compute", "tpus", "tpu-vm", "ssh", "vitl16"]
    assert {"--zone=us-west4-a", "--worker=all"} <= set(arguments)
    for directory in ("venv/bin", "dinojax"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "venv/bin/activate").touch()
    command = arguments[-1].removeprefix("--command=")
    fakes.run("bash", "-c", f"cd {tmp_path} && {command}")
    assert fakes.calls("python") == [LINE]


@pytest.mark.parametrize(
    ("kind", "version"), [("v5litepod-16", "v2-alpha-tpuv5-lite"), ("v5p-256", "v2-alpha-tpuv5")]
)
def test_tpu_vms_are_queued_for(fakes, kind, version):
    assert fakes.run("launch/tpu_vm.sh", "create", "n", kind, SPOT="1", **CLOUD).returncode == 0
    create = fakes.calls("gcloud")[0]
    assert create[2:5] == ["queued-resources", "create", "n"]
    expected = {f"--accelerator-type={kind}", f"--runtime-version={version}", "--node-id=n"}
    assert expected | {"--spot"} <= set(create)
    refused = fakes.run("launch/tpu_vm.sh", "create", "n", "v2-8", **CLOUD)
    assert refused.returncode == 2 and "TYPE=v2-8 is unknown" in refused.stderr
    assert len(fakes.calls("gcloud")) == 2  # nothing was created


def test_copies_of_numbers_agree():
    """Exit codes and seconds, which shells and YAML cannot import."""
    shared = (ROOT / "launch/lib.sh").read_text()
    codes = re.search(r"^readonly RESUMABLE=\((.*)\)$", shared, re.M)
    grace = re.search(r"^readonly GRACE_S=(\d+)$", shared, re.M)
    assert codes and {int(code) for code in codes[1].split()} == RESUMABLE
    assert grace and f"#SBATCH --signal=TERM@{grace[1]}\n" in SCRIPTS[-1].read_text()


BLOCKS = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "docs/scaling.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.split()[0] for block in BLOCKS])
def test_the_documented_commands(fakes, block):
    """As typed, but for what they would start; launchers in Python take the arguments."""
    ended = fakes.run("bash", "-euc", block, DRY_RUN="1")
    assert ended.returncode == 0, ended.stderr
    for program, *arguments in fakes.calls("python"):
        parser = {"launch/jobset.py": jobset.parse, "launch/sweep.py": sweep.parse}[program]
        given = parser([*arguments, "--dry_run"] if "collect" not in arguments else arguments)
        if program == "launch/jobset.py":
            jobset.jobset(given.name, given.image, given.topology, given.command)
    for job in fakes.calls("sbatch"):
        script = next(i for i, argument in enumerate(job) if argument == "launch/slurm.sbatch")
        assert fakes.run(*job[script:], DRY_RUN="1").returncode == 0


@pytest.mark.slow
def test_two_processes_here_train_one_run(tmp_path):
    """Needs `--coordinator` and its companions in dinojax.train."""
    env = os.environ | {"PROCESSES": "2", "JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT)}
    recipe = "configs/dinov3_vitl16_in1k.py:debug"
    command = ["launch/local.sh", recipe, str(tmp_path), "--config.train.draw_group_size=2"]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 3
    logged = (tmp_path / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in logged if "total_loss" in line]
    assert steps == [1, 2, 3]  # by one process only
