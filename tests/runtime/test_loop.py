"""The order of the loop, and when it waits for a device that is behind.

The device is played: it finishes a step some time after it was given, on a clock of its own.
"""

import itertools
import threading
from typing import Any
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from absl import logging

from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.errors import AlarmedError, CheckpointError, PreemptedError
from dinojax.runtime.loop import Guards, Pictures, run
from dinojax.runtime.metrics import MetricWriter
from dinojax.runtime.throughput import Throughput

BATCH = 320


class Device:
    """Runs steps one after the other; time passes for it and for the host alone.

    Args:
        seconds: what each step takes.
        data_seconds: what the host waits for each batch.
    """

    def __init__(self, seconds: list[float], data_seconds: float = 0.0):
        self.host_time, self.ends = 0.0, [0.0]
        self.waits: list[int] = []
        self.bad: set[int] = set()
        self.in_a_row = 0
        self._seconds, self._data_seconds = seconds, data_seconds
        self._fetched = threading.local()

    def clock(self) -> float:
        """The host's time; in the thread that fetched a value, the time at which it was ready."""
        return getattr(self._fetched, "time", self.host_time)

    def batches(self):
        for step in itertools.count():
            self.host_time += self._data_seconds
            yield step

    def step_at(self, number: int):
        """The function for one step, which no other may run."""

        def step(state: "State", batch: int):
            assert state.step == number
            return self.step(state, batch)

        return step

    def step(self, state: "State", batch: int) -> tuple["State", dict[str, Any]]:
        assert batch == state.step
        begin = max(self.ends[-1], self.host_time)
        self.ends.append(begin + self._seconds[batch])
        after = State(self, batch + 1)
        self.in_a_row = self.in_a_row + 1 if batch in self.bad else 0
        values = {"total_loss": Value(self, batch + 1), "lr": Value(self, batch + 1)}
        return after, {**values, "refused_in_a_row": Count(self.in_a_row)}

    def wait(self, step: int) -> None:
        """The host stands still until the step is done."""
        self.waits.append(step)
        self.host_time = max(self.host_time, self.ends[step])


class Count(np.ndarray):
    """A number that is known at once."""

    def __new__(cls, value: int) -> "Count":
        return np.asarray(value).view(cls)

    __class__ = property(lambda self: jax.Array)  # type: ignore[assignment]

    def copy_to_host_async(self) -> None:
        pass


class State:
    def __init__(self, device: Device, step: int):
        self.device, self.step = device, step

    def block_until_ready(self) -> "State":
        self.device.wait(self.step)
        return self


class Value:
    """A metric that equals its step; passes for an array where types are checked."""

    __class__ = property(lambda self: jax.Array)  # type: ignore[assignment]
    shape, dtype = (), np.dtype(float)

    def __init__(self, device: Device, step: int):
        self._device, self._step = device, step

    def copy_to_host_async(self) -> None:
        pass

    def __float__(self) -> float:
        self._device.wait(self._step)
        return float(self._step)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        self._device._fetched.time = self._device.ends[self._step]
        return np.asarray(float(self._step))


class Records(Checkpoints, MetricWriter):
    """Both in one, which notes what it was given, in order."""

    def __init__(self, save_every: int = 10**9):
        self.written: list[tuple[int, dict[str, float]]] = []
        self.order: list[str] = []
        self._save_every = save_every

    def write(self, step: int, values: dict[str, float]) -> None:
        self.written.append((step, dict(values)))
        self.order.append(f"write {step} {'knn' if 'knn' in values else 'loss'}")

    def write_picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        self.order.append(f"{name} {step}")

    def is_due(self, step: int) -> bool:
        return step % self._save_every == 0

    def check(self) -> None:
        pass

    def save(self, step: int, state: State) -> None:
        assert state.step == step
        self.order.append(f"save {step}")

    def wait(self) -> None:
        self.order.append("wait")


NO_GUARDS = Guards(lambda: False, lambda: None, lambda refused: None)


def play(
    device,
    records,
    *,
    first_step=0,
    log_every=2,
    evaluate_every=0,
    until=None,
    guards=NO_GUARDS,
    others=(),
    pictures=None,
):
    total_steps = len(device._seconds)
    device.ends = [0.0] * (first_step + 1)

    def evaluate(state: State) -> dict[str, float]:
        device.host_time += 1000.0
        return {"knn": float(state.step)}

    return run(
        State(device, first_step),
        first_step=first_step,
        until=total_steps if until is None else until,
        total_steps=total_steps,
        train_step_at=device.step_at,
        batches=itertools.islice(device.batches(), first_step, None),
        evaluate=evaluate,
        evaluate_every=evaluate_every,
        series=[records, *others],
        writer=records,
        throughput=Throughput(
            first_step,
            total_steps=total_steps,
            images_per_step=BATCH,
            flops_at=lambda step: 1.0,
            peak_flops=10.0,
            clock=device.clock,
        ),
        log_every=log_every,
        guards=guards,
        pictures=pictures,
    )


@pytest.fixture
def lines(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(logging, "info", lambda text, *v: said.append(text % v if v else text))
    return said


def speeds(records: Records) -> dict[int, float]:
    return {step: x["images_per_s"] for step, x in records.written if "images_per_s" in x}


SECONDS = [99.0, 1.0, 1.0, 1.0, 4.0, 4.0, 2.0, 2.0, 8.0]
"""The first with its compilation. Windows: 1 | 2 | 3, 4 | 5, 6 | 7, 8 | 9."""


def window_speeds(seconds: list[float], ends: list[int]) -> dict[int, float]:
    """Images per second of the steps between consecutive ends, from the steps' durations alone."""
    return {
        last: BATCH * (last - before) / sum(seconds[before:last])
        for before, last in itertools.pairwise(ends)
    }


def test_values_of_a_step_stand_with_the_rates_of_its_window(lines):
    """The device is the slow part and the host far ahead of it."""
    device, records = Device(SECONDS), Records()
    outcome = play(device, records)
    expected = window_speeds(SECONDS, [1, 2, 4, 6, 8, 9])
    assert [step for step, _ in records.written] == [1, 2, 4, 6, 8, 9]
    assert all(values["total_loss"] == step for step, values in records.written)
    assert speeds(records) == pytest.approx(expected)
    assert outcome.images_per_second == pytest.approx(sorted(expected.values())[2])
    shown = [f"step {n}/9  loss {n:.3f}  {speed:.0f} img/s" for n, speed in expected.items()]
    assert [line[: len(text)] for line, text in zip(lines, shown, strict=True)] == shown


def test_the_same_where_the_host_is_the_slow_part():
    device, records = Device([99.0] + [0.001] * 8, data_seconds=2.0), Records()
    play(device, records)
    found = speeds(records)
    assert list(found) == [2, 4, 6, 8, 9]
    assert list(found.values()) == pytest.approx([160.0] * 5, rel=1e-3)
    waits = [values["data_wait"] for _, values in records.written[1:]]
    assert waits == pytest.approx([1.0] * 5, rel=1e-3)


def test_the_host_waits_for_no_running_step():
    """Only for the first step, which compiles, and for the last."""
    device = Device(SECONDS)
    play(device, Records())
    assert set(device.waits) == {1, 9}


def test_pauses_are_in_no_window():
    device, records = Device(SECONDS), Records()
    play(device, records, evaluate_every=3)
    assert speeds(records) == pytest.approx(window_speeds(SECONDS, [1, 2, 4, 6, 8, 9]))
    assert set(device.waits) == {0, 1, 3, 6, 9}


def test_the_order_is_a_contract():
    """What was logged is on disk before the checkpoint from which a restart would continue."""
    records = Records(save_every=4)
    play(Device(SECONDS), records, evaluate_every=4)
    assert records.order == [
        *("write 0 knn", "write 1 loss", "write 2 loss", "write 4 loss"),
        *("write 4 knn", "save 4", "write 6 loss", "write 8 loss"),
        *("write 8 knn", "save 8", "write 9 loss", "write 9 knn", "save 9"),
    ]


def test_pictures_are_drawn_between_scores_and_checkpoints():
    """Of the state of that step; before the first step and after the last too."""
    records = Records(save_every=4)
    blank = np.zeros((1, 1, 3), np.uint8)
    pictures = Pictures(4, lambda state: {f"of{state.step}": blank})
    play(Device(SECONDS), records, evaluate_every=4, pictures=pictures)
    drawn = [place for place, name in enumerate(records.order) if name.startswith("panels/")]
    assert [records.order[place] for place in drawn] == [
        f"panels/of{step} {step}" for step in (0, 4, 8, 9)
    ]
    assert [records.order[place - 1] for place in drawn] == [
        f"write {step} knn" for step in (0, 4, 8, 9)
    ]
    assert [records.order[place + 1] for place in drawn[1:]] == ["save 4", "save 8", "save 9"]


def test_a_resumed_loop_neither_saves_again_nor_skips():
    records = Records(save_every=4)
    play(Device(SECONDS), records, first_step=4, evaluate_every=4)
    assert records.order == [
        *("write 4 knn", "write 5 loss", "write 6 loss", "write 8 loss"),
        *("write 8 knn", "save 8", "write 9 loss", "write 9 knn", "save 9"),
    ]


def guards(asked=lambda: False, refused=lambda one: None) -> Guards:
    return Guards(asked, lambda: None, refused)


def test_asked_to_leave_it_saves_between_two_steps():
    records, asked = Records(save_every=4), iter([False] * 3 + [True])
    with pytest.raises(PreemptedError, match="after 3 steps"):
        play(Device(SECONDS), records, guards=guards(asked=lambda: next(asked)))
    assert records.order == ["write 1 loss", "write 2 loss", "save 3", "wait"]


def test_asked_to_stop_it_saves_and_says_why():
    """After the evaluation that was the reason, and the step that was given out since."""
    records, whys = Records(save_every=9), iter([None] * 5 + ["an alarm."])
    scored = []
    stopping = NO_GUARDS._replace(
        scored=lambda step, scores: scored.append((step, dict(scores))),
        asked_to_stop=lambda: next(whys),
    )
    with pytest.raises(AlarmedError, match=r"an alarm\. The state after 5 steps is saved\."):
        play(Device(SECONDS), records, evaluate_every=4, guards=stopping)
    assert records.order[-4:] == ["write 4 loss", "write 4 knn", "save 5", "wait"]
    assert scored == [(0, {"knn": 0.0}), (4, {"knn": 4.0})]


def test_an_alarm_is_not_lost_to_a_signal_or_a_segment_that_ends():
    """After both the same command would go on and not stop for it again."""
    stopping = NO_GUARDS._replace(asked_to_leave=lambda: True, asked_to_stop=lambda: "an alarm.")
    with pytest.raises(AlarmedError):
        play(Device(SECONDS), Records(), first_step=3, guards=stopping)
    whys = iter([None] * 6 + ["an alarm."])
    records = Records(save_every=4)
    with pytest.raises(AlarmedError, match="after 6 steps"):
        play(
            *(Device(SECONDS), records),
            until=6,
            guards=NO_GUARDS._replace(asked_to_stop=lambda: next(whys)),
        )
    assert records.order[-2:] == ["save 6", "wait"]


def test_refused_steps_are_reported_once_each_without_waiting():
    device, reported = Device(SECONDS), []
    device.bad = {0, 3, 4, 8}
    play(device, Records(), guards=guards(refused=reported.append))
    assert [(one.step, one.in_a_row) for one in reported] == [(0, 1), (3, 1), (4, 2), (8, 1)]
    assert [one.values["lr"] for one in reported] == [1, 4, 5, 9]  # of that step
    assert set(device.waits) <= {0, 1, 4, 5, 9}


def test_no_checkpoint_holds_a_refused_step_that_was_not_reported():
    """What `refused` raises comes before the save."""

    class Stop(Exception):  # noqa: N818
        pass

    def refused(one):
        raise Stop

    device, records = Device(SECONDS), Records(save_every=4)
    device.bad = {3}
    with pytest.raises(Stop):
        play(device, records, log_every=3, guards=guards(refused=refused))
    assert "save 4" not in records.order


def test_each_thing_done_is_progress():
    """A watchdog's limit holds for one evaluation or one save, not for all of them together."""
    records = Records(save_every=4)
    progress = Guards(lambda: False, lambda: records.order.append("."), lambda refused: None)
    play(Device(SECONDS[:5]), records, log_every=9, evaluate_every=4, guards=progress)
    assert records.order == [
        *(".", "write 0 knn", ".", "write 1 loss", ".", ".", ".", "."),
        *("write 4 knn", ".", "save 4", ".", "write 5 loss"),
        *(".", "write 5 knn", ".", "save 5", "."),
    ]


def test_a_failed_save_ends_the_loop_before_its_next_step():
    """Also in a series other than the first."""
    records, others = Records(), Mock(spec=Checkpoints)
    others.is_due.return_value = False
    others.check.side_effect = [None, None, CheckpointError("the disk is full")]
    with pytest.raises(CheckpointError):
        play(Device(SECONDS), records, others=[others])
    assert records.order == ["write 1 loss"]  # and not 2


def test_a_segment_ends_with_a_checkpoint_and_no_evaluation():
    records = Records(save_every=4)
    play(Device(SECONDS), records, evaluate_every=4, until=6)
    assert records.order[-3:] == ["save 4", "write 6 loss", "save 6"]
