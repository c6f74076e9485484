"""A loader that runs for days: neither memory nor descriptors grow with the batches it has loaded.

Over files of which more than a third are bad, so that errors and substitutes are part of it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bad_files import write_corpus

ROOT = Path(__file__).parents[2]
WARM_UP = 2
"""Of the samples, 100 batches: codecs are imported when the first file needs them."""

MORE_MB = 4.0
"""Less than a hundredth of the canvases of 10,000 batches, or half of their problems."""
MORE_DESCRIPTORS = 8
"""What is on its way between processes comes and goes."""


@pytest.mark.parametrize(
    ("num_workers", "count"),
    [
        (0, 400),
        pytest.param(1, 400, marks=pytest.mark.slow),
        *(pytest.param(n, 10_000, marks=pytest.mark.slow, id=f"{n}-10000") for n in (0, 1, 2)),
    ],
)
def test_memory_is_flat(tmp_path, num_workers, count):
    folder = write_corpus(tmp_path / "images", good=40)
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "memory.py", folder, str(num_workers), str(count)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.PIPE,
    )
    found = json.loads(done.stdout)
    mb, descriptors = zip(*found["held"], strict=True)
    print(f"{mb[WARM_UP]:.1f} MB after warm-up, then at most {max(mb[WARM_UP:]):.1f}")
    assert found["problems"] > count and len(mb) == count // 50
    assert max(mb[WARM_UP:]) < mb[WARM_UP] + MORE_MB
    assert max(descriptors) <= descriptors[WARM_UP] + MORE_DESCRIPTORS
