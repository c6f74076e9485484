"""Work in threads: all of it done, errors passed on, and nothing waits for ever."""

import threading
import time

import pytest
from absl import logging

from dinojax.data.threads import StorageError, for_each


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    return said


def each(task, count=8, **options):
    options = {"num_threads": 3, "limit_s": 60.0, "describe": lambda item: f"item {item}"} | options
    for_each(task, count, **options)


@pytest.mark.parametrize("num_threads", [1, 3, 20])
def test_every_item_once(num_threads):
    done: list[int] = []
    each(done.append, 12, num_threads=num_threads)
    assert sorted(done) == list(range(12))


def test_no_items():
    each(lambda item: 1 / 0, 0)


def test_what_a_task_raises_ends_the_rest():
    done = []

    def task(item):
        if item == 2:
            raise KeyError("two")
        done.append(item)

    with pytest.raises(KeyError, match="two"):
        each(task, 10_000, num_threads=1)
    assert done == [0, 1]


def test_an_item_that_hangs_is_named_and_left_behind(warnings):
    release, begin = threading.Event(), time.monotonic()

    def task(item):
        if item == 5:
            release.wait(60)

    with pytest.raises(StorageError, match=r"item 5 could not .* data.read_timeout_s=0.2 s; check"):
        each(task, limit_s=0.2)
    assert time.monotonic() - begin < 30
    left = [thread for thread in threading.enumerate() if thread.name == "decode"]
    assert left and all(thread.daemon for thread in left)
    release.set()
    assert [line.split(" s")[0][:23] for line in warnings] == ["item 5 has been read for"[:23]]


def test_a_slow_item_is_waited_for_and_logged_once(warnings):
    done = []

    def task(item):
        if item in (1, 2):
            time.sleep(0.4)
        done.append(item)

    each(task, limit_s=2.0)
    assert sorted(done) == list(range(8))
    assert len(warnings) == 1 and warnings[0].startswith(("item 1 has been", "item 2 has been"))
