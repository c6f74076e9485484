"""SIGTERM is a note that is read between steps."""

import os
import signal
from collections.abc import Iterator

import hosts
import pytest
from jax.experimental import multihost_utils

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


def test_what_the_processes_have_agreed_on_stays(handler, monkeypatch):
    """JAX says it once: at the step at which a run goes back to a checkpoint, perhaps."""
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda call: call == 2)
    with Preemption() as asked_to_leave:
        assert [asked_to_leave() for _ in range(4)] == [False, True, True, True]


TWO = """
import sys, time
from dinojax.runtime import cluster
from dinojax.runtime.preemption import Preemption
cluster.start(sys.argv[1], 2, int(sys.argv[2]))
with Preemption() as asked_to_leave:
    print("up", flush=True)
    steps = 0
    while not asked_to_leave():
        steps += 1
        time.sleep(0.01)
    cluster.gather("saved", "")
print(steps)
"""


def test_two_processes_leave_after_the_same_step():
    """Although only one of them gets the signal."""
    address = f"localhost:{hosts.free_port()}"
    both = [hosts.launch(["-c", TWO, address, str(i)]) for i in range(2)]
    for process in both:
        assert process.stdout and process.stdout.readline() == "up\n"
    both[1].terminate()
    first, second = hosts.wait(both, timeout_s=60)
    assert first.code == second.code == 0, second.err
    assert first.out == second.out and int(first.out) >= 0
