"""One process at a time, however the one before ends."""

import fcntl
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dinojax.runtime.lock import FILE, locked

HOLD = "import sys, time; time.sleep(float(sys.argv[1]))"


def test_a_second_process_is_refused_and_told_why(tmp_path):
    folder = tmp_path / "new" / "run"
    with locked(folder, "dinojax.train"):
        words = re.escape(f"{folder} is being written by another dinojax.prepare; wait for it")
        with pytest.raises(ValueError, match=words), locked(folder, "dinojax.prepare"):
            pass
    with locked(folder, "dinojax.prepare"):
        pass


def test_it_waits_for_one_that_ends(tmp_path, caplog):
    with locked(tmp_path, "dinojax.train") as handle:
        child = subprocess.Popen([sys.executable, "-c", HOLD, "1.5"], pass_fds=(handle,))
    start = time.monotonic()
    with locked(tmp_path, "dinojax.train", wait_s=60.0):  # held by the child alone by now
        assert child.poll() is not None or time.monotonic() - start > 1
    assert f"waiting for another dinojax.train in {tmp_path}" in caplog.text
    child.wait()


def test_it_waits_no_longer_than_it_is_told(tmp_path):
    with locked(tmp_path, "x"):
        start = time.monotonic()
        with pytest.raises(ValueError, match="another x"), locked(tmp_path, "x", wait_s=0.5):
            pass
        assert 0.5 <= time.monotonic() - start < 30


def test_the_file_is_open_for_writing(tmp_path):
    """NFS makes of a lock on a file that is only read one that excludes nobody."""
    with locked(tmp_path, "x") as handle:
        assert fcntl.fcntl(handle, fcntl.F_GETFL) & 0b11 == 2  # O_RDWR
        assert (tmp_path / FILE).exists()


def test_a_bucket_is_no_folder(tmp_path, monkeypatch):
    """It would become a local directory ``gs:``."""
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(ValueError, match=r"gs:/b/x is in a bucket.*use a directory"),
        locked(Path("gs://b/x"), "dinojax.train"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_file_systems_without_locks(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path, "x"), locked(tmp_path, "x"):
        pass
