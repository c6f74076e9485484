"""How a run ends: a code per reason, at once."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from unittest.mock import Mock

import pytest
from images import encode, smooth, write_folder

from dinojax.data.threads import StorageError
from dinojax.runtime import exits
from dinojax.runtime.errors import AlarmedError, CheckpointError, DivergedError, PreemptedError
from dinojax.runtime.exits import RESUMABLE, leave
from dinojax.runtime.quarantine import BadBudgetError


@pytest.mark.parametrize(
    ("error", "code", "again"),
    [
        *((ValueError, 2, False), (FileNotFoundError, 2, False), (BadBudgetError, 3, False)),
        *((StorageError, 4, True), (CheckpointError, 5, False), (PreemptedError, 6, True)),
        *((DivergedError, 8, False), (AlarmedError, 10, False)),
    ],
)
def test_codes(error, code, again, monkeypatch):
    """`again`: the same command goes on; otherwise it would end the same way."""
    monkeypatch.setattr(exits.threading, "Timer", Mock())
    with pytest.raises(SystemExit) as left:
        leave(error("so"))
    assert left.value.code == code
    assert (code in RESUMABLE) == again


@pytest.mark.parametrize("workers", [0, 1])
def test_a_read_that_never_returns_does_not_hold_up_the_exit(tmp_path, workers):
    """A pipe that nobody writes to, among images; the batch loaded ahead hangs as well."""
    images = write_folder(tmp_path / "images", {"a.png": encode(smooth(9, 9), "PNG")})
    os.mkfifo(images / "hanging.jpg")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from contextlib import closing
            from dinojax.data.folder import FolderSource
            from dinojax.data.order import Order
            from dinojax.data.pipeline import make_loader
            from dinojax.runtime.exits import STOPS, leave

            if __name__ == "__main__":
                source = FolderSource("{images}")
                options = dict(canvas_px=8, num_threads=2, num_workers={workers})
                loader = make_loader(
                    source, Order((len(source),), 8, 0), read_timeout_s=0.5, **options
                )
                try:
                    with closing(loader):
                        next(loader)
                except STOPS as error:
                    print(error, flush=True)
                    leave(error)
            """
        )
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": f"{root}:{root / 'tests'}", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 4, done.stderr
    assert done.stdout == (
        "record 'hanging.jpg' could not be read within data.read_timeout_s=0.5 s; check the "
        "storage that holds it and run the same command again, or raise the limit\n"
    )
    warnings = done.stderr.splitlines()
    assert warnings and all("record 'hanging.jpg' has been read for" in w for w in warnings)


def test_every_code_is_in_the_manual():
    table = (Path(__file__).parents[2] / "docs" / "faults.md").read_text()
    codes = {0, 1, exits.HUNG, exits.PEER_LOST, *exits.EXIT_CODES.values()}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)} == codes
    assert len(set(exits.EXIT_CODES.values())) == len(codes) - 4
