"""The training loop. Its order is a contract:

1. leave because a write in the background has failed, or if asked to, with the state saved; the
   guardian goes first, because the same command would not stop for the same alarm again,
2. evaluate the state if its step is due (so also before the first step), then draw it if due,
3. save the state if its step is due,
4. take the batch of that step,
5. run the step, with the function compiled for it,
6. log one period late: the values of a step with the rates of the window that it ends, and which
   steps of that window changed nothing.

Evaluation comes before saving: a crash between the two repeats a score instead of losing it. For
the same reason everything logged up to a step is written before its evaluation and its checkpoint;
nothing else waits for the device.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from dinojax.runtime import cluster
from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.errors import AlarmedError, PreemptedError
from dinojax.runtime.metrics import Deferred, Fetched, MetricWriter
from dinojax.runtime.nonfinite import Refusals, Refused
from dinojax.runtime.throughput import Throughput, progress_line

State = Any
TrainStep = Callable[[State, Any], tuple[State, dict[str, jax.Array]]]


class Outcome(NamedTuple):
    """What a finished loop hands back."""

    state: State
    images_per_second: float
    """Median over the log windows of this process, without pauses."""


class Guards(NamedTuple):
    """What watches over a loop."""

    asked_to_leave: Callable[[], bool]
    """Called once before each step."""
    progress: Callable[[], None]
    """Called when something has been done: a step given out, an evaluation, a save."""
    refused: Callable[[Refused], None]
    """Called for each step that changed nothing; what it raises ends the loop."""
    logged: Callable[[int, Mapping[str, float]], None] = lambda step, values: None
    """Called with the metrics of each step that is logged."""
    scored: Callable[[int, Mapping[str, float]], None] = lambda step, scores: None
    """Called with the scores of each state that is evaluated; what it raises ends the loop."""
    asked_to_stop: Callable[[], str | None] = lambda: None
    """Called once before each step, and before the run goes around others: why the run shall end,
    if it shall."""


class Pictures(NamedTuple):
    """What is drawn of a state, and when: at step 0, every so many steps, and after the last."""

    every: int
    draw: Callable[[State], Mapping[str, np.ndarray]]
    """Pictures [H, W, 3] by name."""


def run(
    state: State,
    *,
    first_step: int,
    until: int,
    total_steps: int,
    train_step_at: Callable[[int], TrainStep],
    batches: Iterator[Any],
    evaluate: Callable[[State], Mapping[str, float]],
    evaluate_every: int,
    series: Sequence[Checkpoints],
    writer: MetricWriter,
    throughput: Throughput,
    log_every: int,
    guards: Guards,
    pictures: Pictures | None = None,
) -> Outcome:
    """Run steps ``first_step .. until - 1``, then save the state; evaluate it if it is the final.

    Args:
        train_step_at: the function of a step, compiled; it donates its state.
        batches: global device arrays from `first_step` on.
        evaluate: scores of a state by name; not called if `evaluate_every` is 0.
        series: where the state is saved when it is due: first the checkpoints that a run resumes
            from, which also get the state at `until` or at leaving.

    Raises:
        PreemptedError: asked to leave; the state is saved.
        AlarmedError: asked to stop; the state is saved.
        dinojax.runtime.errors.CheckpointError: a write has failed.
    """
    deferred, speeds, refusals = Deferred(throughput.clock), [], Refusals()
    checkpoints = series[0]

    def log(ready: list[Fetched]) -> None:
        for step, values, finished in ready:
            rates = throughput.report(step, finished)
            speeds.append(rates.images_per_second)
            logging.info(progress_line(step, total_steps, values["total_loss"], rates))
            speed = {"images_per_s": rates.images_per_second, "mfu": rates.mfu}
            writer.write(step, {**values, **speed, "data_wait": rates.data_wait})
            guards.logged(step, values)
            report_refused(step)

    def report_refused(step: int) -> None:
        for refused in refusals.before(step):
            guards.refused(refused)

    def finish_log(step: int) -> None:
        """Also of the steps since the last window; waits for them."""
        log(deferred.flush())
        report_refused(step)

    def pause_tasks(step: int) -> None:
        if evaluate_every and (step % evaluate_every == 0 or step == total_steps):
            log(deferred.flush())
            with throughput.pause(state):
                scores = evaluate(state)
            text = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            logging.info("step %d/%d  %s", step, total_steps, text)
            writer.write(step, scores)
            guards.progress()
            guards.scored(step, scores)
        if pictures and (step % pictures.every == 0 or step == total_steps):
            finish_log(step)
            with throughput.pause(state):
                for name, pixels in pictures.draw(state).items():
                    writer.write_picture(step, f"panels/{name}", pixels)
            guards.progress()
        due = [saves for saves in series if saves.is_due(step)]
        if step > first_step and due:
            finish_log(step)
            with throughput.pause(state):
                for saves in due:
                    saves.save(step, state)
                    guards.progress()

    def save_to_leave(step: int) -> None:
        finish_log(step)
        if step > first_step:
            checkpoints.save(step, state)
            checkpoints.wait()
        cluster.gather("saved", "")  # the first to leave ends all others

    def stop_if_asked(step: int) -> None:
        if (why := guards.asked_to_stop()) is not None:
            save_to_leave(step)
            raise AlarmedError(f"{why} The state after {step} steps is saved.")

    for step in range(first_step, until):
        guards.progress()
        for saves in series:
            saves.check()
        stop_if_asked(step)
        if guards.asked_to_leave():
            save_to_leave(step)
            raise PreemptedError(
                f"asked to leave after {step} steps, and did; the same command resumes the run"
            )
        pause_tasks(step)
        with throughput.waiting():
            batch = next(batches)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = train_step_at(step)(state, batch)
        refusals.push(step, metrics)
        if step == first_step:  # warms everything up: written at once and timed by nobody
            writer.write(step + 1, {name: float(value) for name, value in metrics.items()})
            jax.block_until_ready(state)
            throughput.start(step + 1)
        elif (step + 1) % log_every == 0 or step + 1 == until:
            throughput.mark(step + 1)
            log(deferred.push(step + 1, metrics))
    finish_log(until)
    jax.block_until_ready(state)
    guards.progress()
    pause_tasks(until)
    if until < total_steps:
        stop_if_asked(until)
    checkpoints.save(until, state)
    guards.progress()
    return Outcome(state, sorted(speeds)[len(speeds) // 2] if speeds else 0.0)
