"""Loading ahead: as much as memory holds and no more, and closing leaves nothing behind."""

import gc
import multiprocessing
import os
import re
import time
from contextlib import closing
from itertools import islice

import pytest
from absl import logging
from processes import Deadly, Logged, Steady

from dinojax.data.prefetch import iterate, most_ahead

MB = 10**6


@pytest.mark.parametrize(
    ("prefetch_mb", "batch_bytes", "num_workers", "ahead", "warning"),
    [
        (4096, 201 * MB, 0, 2, None),
        (402, 201 * MB, 0, 2, None),
        (401, 201 * MB, 0, 1, None),
        (0, 201 * MB, 0, 1, None),
        (4096, 1, 3, 12, None),
        (1608, 201 * MB, 2, 8, None),
        (1607, 201 * MB, 2, 7, "holds 7 of the batches of 201.0 MB, .*starting 1 of 2; .*use 1608"),
        (4096, 201 * MB, 8, 20, "=4096 holds 20 of .* takes 4: starting 5 of 8; .*use 6432"),
        (0, 3 * MB // 2, 1, 1, "=0 holds 0 of the batches of 1.5 MB.*starting 1 of 1; .*use 6"),
        (3, MB + 1, 1, 2, "=3 holds 2 of .*starting 1 of 1; .*use 5$"),
    ],
)
def test_as_much_is_loaded_ahead_as_memory_holds(
    prefetch_mb, batch_bytes, num_workers, ahead, warning, monkeypatch
):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))
    assert most_ahead(prefetch_mb, batch_bytes, num_workers) == ahead
    assert len(said) == (warning is not None)
    assert not warning or re.search(warning, said[0]), said


@pytest.mark.parametrize(
    ("num_workers", "ahead"),
    [(0, 1), (0, 3), (1, 4), (2, 8), pytest.param(2, 4, id="2-4: feeds only one")],
)
def test_no_more_is_loaded_than_asked_for(tmp_path, num_workers, ahead):
    """However long the loader has time to."""

    def loaded() -> int:
        return len(list(tmp_path.iterdir()))

    with closing(iterate(Logged(tmp_path), ahead, num_workers=num_workers)) as batches:
        assert list(islice(batches, 5)) == list(range(5))
        # Nothing is loaded any more: the bound is reached, or fewer are kept.
        seen, since = loaded(), time.monotonic()
        while time.monotonic() < since + 1.0:
            if loaded() > seen:
                seen, since = loaded(), time.monotonic()
            time.sleep(0.02)
    assert 5 < seen <= 5 + ahead


def test_batches_outlive_their_successors_and_their_workers():
    with closing(iterate(Steady(), 4, start_step=7, num_workers=1)) as batches:
        held = list(islice(batches, 4))
    for step, batch in enumerate(held, 7):
        assert batch["step"] == step and (batch["canvas"] == step).all()


def test_a_worker_that_is_killed_is_reported():
    batches = iterate(Deadly(), 4, num_workers=1)
    with closing(batches), pytest.raises(RuntimeError, match=r"terminated .* exit code -9"):
        next(batches)


def held_by_this_process() -> tuple[int, set[str]]:
    """(open descriptors, names in shared memory)."""
    gc.collect()  # Grain's iterators are cycles, which own semaphores
    return len(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))


def test_closing_leaves_nothing():
    """With batches on their way: no process, no descriptor, no shared memory."""
    known = multiprocessing.active_children()
    with closing(iterate(Steady(), 4, num_workers=1)) as batches:
        next(batches)  # the resource tracker's descriptors stay for good
    del batches
    before = held_by_this_process()
    batches = iterate(Steady(), 8, num_workers=2)
    held = list(islice(batches, 3))
    assert len(multiprocessing.active_children()) == len(known) + 2
    batches.close()
    assert multiprocessing.active_children() == known
    del held, batches
    descriptors, shared = held_by_this_process()
    assert descriptors <= before[0] and shared <= before[1]


def test_an_end_is_an_end(tmp_path):
    with closing(iterate(Logged(tmp_path), 4, start_step=997)) as batches:
        assert list(batches) == [997, 998, 999]
