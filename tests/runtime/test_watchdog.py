"""What no longer moves is ended, and shows where it stood."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("report", ["a_file/hang.0.txt", "pipe"])
def test_storage_that_fails_or_hangs_holds_nothing_up(tmp_path, report):
    """A directory that cannot be made, and a pipe, whose opening waits for a reader."""
    (tmp_path / "a_file").touch()
    os.mkfifo(tmp_path / "pipe")
    script = f"""
import time
from pathlib import Path
from dinojax.runtime import watchdog
watchdog.REPORT_S = 0.2
with watchdog.Watchdog(0.2, Path({str(tmp_path / report)!r})) as progress:
    progress()
    time.sleep(100)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 7 and "no progress for 0.2 s" in done.stderr, done.stderr


def test_a_run_that_hangs_shows_its_stacks_and_ends(tmp_path):
    """Hanging in native code, as in a collective whose other side has died. Nothing happens while
    there is progress, while the start takes longer, or with the watchdog switched off."""
    script = f"""
import sys, threading, time
from pathlib import Path
from dinojax.runtime.watchdog import Watchdog
report = Path({str(tmp_path)!r}) / "run" / "hang.0.txt"
with Watchdog(0, report):
    time.sleep(0.5)
with Watchdog(0.3, report) as progress:
    time.sleep(1.0)
    for _ in range(10):
        progress()
        time.sleep(0.1)
with Watchdog(0.3, report) as progress:
    def step_that_hangs():
        progress()
        print("hangs", flush=True)
        threading.Lock().acquire() and time.sleep(1000)
    step_that_hangs()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 7 and done.stdout == "hangs\n", done.stderr
    report = (tmp_path / "run" / "hang.0.txt").read_text()
    for text in (done.stderr, report):
        assert "step_that_hangs" in text and "no progress for 0.3 s" in text
