"""Programs of clusters and clouds, replaced by scripts that write down how they were called."""

import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE = """#!/bin/sh
line=$(printf '%s' "$(basename "$0")"; printf '\\t%s' "$@")
printf '%s\\n' "$line" >> "$CALLS"  # at once: others write there too
"""
# Children of a test run in the background ignore Ctrl-C, which no trap of theirs can undo.
HEED_SIGINT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""
ENDS = {
    # What reaches the other machine is read by a shell there.
    "ssh": 'exec bash -c "$2"\n',
    "pkill": 'touch "$CALLS.asked.$$"\n',
    "kubectl": 'cat > "$CALLS.stdin"\n',
    "nvidia-smi": 'for gpu in $GPUS; do echo "$gpu"; done\n',
    "srun": 'exit "$SRUN_STATUS"\n',
    "python": 'echo "$CUDA_VISIBLE_DEVICES" > "$CALLS.gpus.${*##*--process_id=}"\neval "$DOES"\n',
}


class Fakes:
    """Runs commands that find only fakes of `programs`, and what those were asked for."""

    def __init__(self, directory: Path):
        self.bin = directory / "bin"
        self.calls_file = directory / "calls"
        self.started: list[subprocess.Popen[str]] = []
        self.bin.mkdir()
        for program in (*ENDS, "gcloud", "xpk", "sbatch", "scontrol"):
            path = self.bin / program
            path.write_text(FAKE + ENDS.get(program, ""))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.env = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "CALLS": str(self.calls_file),
            "SRUN_STATUS": "0",
        }

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, env=self.env | env, capture_output=True, text=True, timeout=300
        )

    def start(self, *command: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HEED_SIGINT, *command], cwd=ROOT, env=self.env | env, text=True
        )
        self.started.append(process)
        return process

    def wait_for(self, name: str, number: int) -> None:
        """Until there are `number` files ``$CALLS.NAME.*``."""
        deadline = time.monotonic() + 300
        while len(list(self.calls_file.parent.glob(f"calls.{name}.*"))) < number:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def calls(self, program: str) -> list[list[str]]:
        """Arguments of every call of a program, in the order of the calls."""
        text = self.calls_file.read_text() if self.calls_file.exists() else ""
        found = [line.split("\t") for line in text.splitlines()]
        return [arguments for name, *arguments in found if name == program]


@pytest.fixture
def fakes(tmp_path) -> Iterator[Fakes]:
    fakes = Fakes(tmp_path)
    yield fakes
    for process in fakes.started:
        process.kill()
        process.wait()
