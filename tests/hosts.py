"""Several real processes on this machine that form one run, and what became of each."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 2400


class Done(NamedTuple):
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        return self.err.splitlines()[-1] if self.err else ""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def launch(
    command: Sequence[str], *, devices: int = 1, env: dict[str, str] | None = None
) -> subprocess.Popen:
    """Start ``python *command`` on fake CPU devices, able to import what tests import."""
    settings = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        **(env or {}),
    }
    return subprocess.Popen(
        [sys.executable, *command],
        **{"env": settings, "cwd": ROOT, "text": True},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
    )


def wait(processes: Sequence[subprocess.Popen], timeout_s: float = TIMEOUT_S) -> list[Done]:
    """Until all have ended; those that have not by then are killed, and the test fails."""
    deadline = time.monotonic() + timeout_s
    done, late = [], []
    for number, process in enumerate(processes):
        try:
            output = process.communicate(timeout=max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            output = process.communicate()
            late.append(number)
        done.append(Done(process.returncode, *output))
    assert not late, f"processes {late} had to be killed:\n" + "\n".join(d.err for d in done)
    return done


def flags(count: int) -> list[list[str]]:
    """Of each of `count` processes, by which they find each other."""
    port = free_port()
    return [
        [f"--coordinator=localhost:{port}", f"--num_processes={count}", f"--process_id={i}"]
        for i in range(count)
    ]
