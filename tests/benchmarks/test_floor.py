"""Floors and clocks of the benchmarks."""

import json
import time

import floor
import measure
import pytest


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(measure, "REPEATS", 3)
    monkeypatch.setattr(measure, "REPEAT_S", 0.02)
    monkeypatch.setattr(floor, "SIDES", (64, 128))
    monkeypatch.setattr(floor, "TRIAD_BYTES", {"cpu": 2**16})


@pytest.mark.parametrize(
    ("work", "least", "bound"),
    [(floor.Work(400, 5), 4.0, "flops"), (floor.Work(400, 200), 20.0, "bytes")],
)
def test_the_floor_is_the_slower_of_both(work, least, bound):
    device = floor.Floor(flops=100, bytes=10)
    assert device.seconds(work) == least
    figures = device.figures(work, seconds=40.0)
    assert figures["share_of_floor"] == least / 40
    assert (figures["bound"], figures["floor_ms"], figures["ms"]) == (bound, least * 1e3, 40e3)
    assert (figures["flops_per_s"], figures["bytes_per_s"]) == (work.flops / 40, work.bytes / 40)


def test_a_call_is_timed_alone_and_waited_for():
    """A device that works for 2 ms on each call after it was dispatched."""
    queue, waits = [], []

    def wait(_) -> None:
        waits.append(len(queue))
        time.sleep(0.002 * len(queue))
        queue.clear()

    seconds = measure.seconds_per_call(lambda: queue.append(1), wait)
    assert 0.002 <= seconds < 0.01
    assert waits[:2] == [1, 1] and waits[2] > 1, "to compile, to count, then several in a row"


def test_peak_and_bandwidth_are_those_of_a_processor():
    found = floor.measured_floor("float32")
    assert 1e6 < found.flops < 1e15
    assert 1e6 < found.bytes < 1e14


def test_cases_are_lines_of_json_and_rows_of_a_table(capsys):
    cases = measure.Cases("name", "ms", "peer")
    cases.add({"name": "a", "ms": 0.0123456, "more": [1]})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"name": "a", "ms": 0.0123456, "more": [1]}
    assert err.splitlines() == ["| name | ms | peer |", "| --- | --- | --- |", "| a | 0.01235 |  |"]
