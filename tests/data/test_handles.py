"""Handles are opened once, dropped when too many, and never pickled."""

import functools
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from dinojax.data.handles import Handles
from dinojax.data.threads import StorageError


class Handle:
    """Stands for an open file: cannot be pickled, and counts itself."""

    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self, prefix: str, number: int):
        self.name, self.lock = f"{prefix}{number}", threading.Lock()
        self.alive.add(self)


@pytest.fixture
def handles():
    return Handles(functools.partial(Handle, "file"), limit=3)


def test_opens_once_and_when_asked(handles):
    Handle.alive.clear()
    assert not Handle.alive
    with ThreadPoolExecutor(8) as pool:
        opened = set(pool.map(lambda _: handles[5], range(100)))
    assert [handle.name for handle in opened] == ["file5"]


def test_drops_the_one_used_longest_ago(handles):
    Handle.alive.clear()
    for number in (0, 1, 2, 0, 3):
        handles[number]
    assert {handle.name for handle in Handle.alive} == {"file0", "file2", "file3"}


def test_a_dropped_handle_lives_while_somebody_reads(handles):
    reading = handles[0]
    for number in (1, 2, 3):
        handles[number]
    assert reading in Handle.alive and reading is not handles[0]


def test_failing_to_open_keeps_nothing(tmp_path):
    handles = Handles(functools.partial(_read, tmp_path))
    with pytest.raises(StorageError, match=r"No such file .*/1': gone since the source was opened"):
        handles[1]
    (tmp_path / "1").write_text("now")
    assert handles[1] == "now"


def test_a_copy_starts_with_nothing_open(handles):
    first = handles[0]
    copy = pickle.loads(pickle.dumps(handles))
    assert copy[0] is not first and copy[0].name == "file0"
    for number in (1, 2, 3):
        copy[number]
    assert len(copy._kept) == 3


def _read(folder, number):
    return (folder / str(number)).read_text()
