"""SIGTERM is a note that is read between steps."""

import os
import signal
from collections.abc import Iterator

import pytest

from dinojax.runtime.preemption import Preemption


@pytest.fixture(autouse=True)
def handler() -> Iterator[list[int]]:
    """Notes the signals that reach what was there before."""
    reached: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: reached.append(number))
    yield reached
    signal.signal(signal.SIGTERM, before)


def test_a_signal_is_a_request(handler):
    with Preemption() as asked_to_leave:
        assert not asked_to_leave() and not asked_to_leave()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked_to_leave() and asked_to_leave()
    os.kill(os.getpid(), signal.SIGTERM)  # on the way out, with an exit code of its own
    assert not handler


def test_without_a_signal_nothing_changes(handler):
    with Preemption() as asked_to_leave:
        assert not asked_to_leave()
    os.kill(os.getpid(), signal.SIGTERM)
    assert handler == [signal.SIGTERM]
