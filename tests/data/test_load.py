"""Substitutes by (seed, position), what counts as unreadable, and what stops a run instead."""

import errno
import pickle
import threading

import numpy as np
import pytest
from images import ArraySource

from dinojax.data import reading
from dinojax.data.canvases import CanvasMemory
from dinojax.data.load import ATTEMPTS, load, substitutes
from dinojax.data.records import Record
from dinojax.data.threads import StorageError


class Troubled(ArraySource):
    """Raises what `troubles` holds for an index, or shows it."""

    def __init__(self, count, troubles):
        super().__init__(count)
        self.troubles = troubles

    def __getitem__(self, index):
        trouble = self.troubles.get(index)
        if isinstance(trouble, Exception):
            raise trouble
        if isinstance(trouble, threading.Event):
            trouble.wait(60)
        if isinstance(trouble, np.ndarray):
            return Record(trouble, self.record_id(index))
        return super().__getitem__(index)


def read(source, index, **options):
    positions = range(100, 100 + len(index))
    options = {"batch": len(index), "canvas_px": 8, "read_timeout_s": 60.0} | options
    memory = CanvasMemory()
    memory.take((len(index), 8, 8, 3))[:] = 77  # what an earlier batch has left
    return load(source, np.array(index), positions, num_threads=2, memory=memory, **options)


def test_substitutes_are_pinned():
    """A resumed run relies on these numbers."""
    assert list(substitutes(0, 0, range(1000), 4)) == [142, 465, 251, 850]
    assert list(substitutes(7, 10**12, range(10, 20), 4)) == [16, 14, 15, 17]


def test_substitutes_are_uniform_and_in_range():
    drawn = [i for position in range(400) for i in substitutes(3, position, range(50, 60))]
    assert len(drawn) == 400 * ATTEMPTS
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == list(range(50, 60))
    assert np.abs(counts - 1280).max() < 4 * np.sqrt(1280 * 0.9)


@pytest.mark.parametrize("other", [(4, 9, 10**6), (3, 10, 10**6), (3, 9, 10**6 - 1)])
def test_substitutes_depend_on_seed_position_and_range(other):
    *numbers, count = other
    assert list(substitutes(3, 9, range(10**6))) != list(substitutes(*numbers, range(count)))


def test_the_first_readable_substitute_takes_the_slot():
    source = Troubled(9, {2: ValueError("broken two"), 7: FileNotFoundError(2, "gone", "/x/7")})
    loaded = read(source, [2, 4, 7], instead=lambda p, i: {100: (7, 2, 5, 6), 102: (4,)}.get(p, ()))
    assert loaded.index.tolist() == [5, 4, 4]
    assert loaded.label.tolist() == [1, 0, 0]
    assert loaded.size.tolist() == [[2, 3], [6, 3], [6, 3]]
    assert (loaded.canvas[0, :2, :3] == 6).all() and loaded.canvas[0].sum() == 6 * 18
    assert loaded.problems == (
        (100, 0, "array/2", "broken two", "array/5"),
        (100, 1, "array/7", "[Errno 2] gone: '/x/7'", "array/5"),
        (100, 2, "array/2", "broken two", "array/5"),
        (102, 0, "array/7", "[Errno 2] gone: '/x/7'", "array/4"),
    )
    assert pickle.loads(pickle.dumps(loaded.problems)) == loaded.problems


def test_a_slot_for_which_nothing_can_be_read_stays_empty():
    loaded = read(Troubled(3, {1: ValueError("no")}), [0, 1], batch=3, instead=lambda p, i: (1, 1))
    assert loaded.index.tolist() == [0, -1, -1] and loaded.label.tolist() == [0, -1, -1]
    assert loaded.size[1:].tolist() == [[8, 8], [8, 8]] and not loaded.canvas[1:].any()
    assert [p.substitute for p in loaded.problems] == [None] * 3


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (2, 90)])
def test_lines_are_unreadable(shape):
    source = Troubled(2, {0: np.ones((*shape, 3), np.uint8)})
    (problem,) = read(source, [0]).problems
    assert problem.cause.startswith("record 'array/0' is ")
    assert problem.cause.endswith("on the canvas; both sides must be at least 2")


def test_two_rows_are_enough():
    assert not read(Troubled(2, {0: np.ones((2, 5, 3), np.uint8)}), [0]).problems


def test_errors_of_the_machine_are_no_property_of_the_record(monkeypatch):
    monkeypatch.setattr(reading, "PAUSE_S", 0)
    source = Troubled(3, {1: OSError(errno.EIO, "Input/output error")})
    with pytest.raises(StorageError, match=r"record 'array/1' cannot be read for a reason that is"):
        read(source, [0, 1], instead=lambda p, i: (0,))


def test_a_hanging_read_is_named_by_the_record_that_hangs():
    """Also where that record is a substitute; it is never replaced itself."""
    release = threading.Event()
    source = Troubled(9, {2: ValueError("broken"), 7: release})
    with pytest.raises(StorageError, match=r"record 'array/7' could not be read within .*=0.3 s"):
        read(source, [2, 4], read_timeout_s=0.3, instead=lambda p, i: (7, 5))
    release.set()
