"""The training loop. Its order is a contract:

1. evaluate the state if its step is due (so also before the first step),
2. save the state if its step is due,
3. take the batch of that step,
4. run the step, with the function compiled for it,
5. log one period late: the values of a step with the rates of the window that it ends.

Evaluation comes before saving: a crash between the two repeats a score instead of losing it. For
the same reason everything logged up to a step is written before its evaluation and its checkpoint;
nothing else waits for the device.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from absl import logging

from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.metrics import Deferred, Fetched, MetricWriter
from dinojax.runtime.throughput import Throughput, progress_line

State = Any
TrainStep = Callable[[State, Any], tuple[State, dict[str, jax.Array]]]


class Outcome(NamedTuple):
    """What a finished loop hands back."""

    state: State
    images_per_second: float
    """Median over the log windows of this process, without pauses."""


def run(
    state: State,
    *,
    first_step: int,
    total_steps: int,
    train_step_at: Callable[[int], TrainStep],
    batches: Iterator[Any],
    evaluate: Callable[[State], Mapping[str, float]],
    evaluate_every: int,
    checkpoints: Checkpoints,
    writer: MetricWriter,
    throughput: Throughput,
    log_every: int,
) -> Outcome:
    """Run steps ``first_step .. total_steps - 1``, then evaluate and save the final state.

    Args:
        train_step_at: the function of a step, compiled; it donates its state.
        batches: global device arrays from `first_step` on.
        evaluate: scores of a state by name; not called if `evaluate_every` is 0.
    """
    deferred, speeds = Deferred(throughput.clock), []

    def log(ready: list[Fetched]) -> None:
        for step, values, finished in ready:
            rates = throughput.report(step, finished)
            speeds.append(rates.images_per_second)
            logging.info(progress_line(step, total_steps, values["total_loss"], rates))
            speed = {"images_per_s": rates.images_per_second, "mfu": rates.mfu}
            writer.write(step, {**values, **speed, "data_wait": rates.data_wait})

    def pause_tasks(step: int) -> None:
        if evaluate_every and (step % evaluate_every == 0 or step == total_steps):
            log(deferred.flush())
            with throughput.pause(state):
                scores = evaluate(state)
            text = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            logging.info("step %d/%d  %s", step, total_steps, text)
            writer.write(step, scores)
        if step > first_step and checkpoints.is_due(step):
            log(deferred.flush())
            with throughput.pause(state):
                checkpoints.save(step, state)

    for step in range(first_step, total_steps):
        pause_tasks(step)
        with throughput.waiting():
            batch = next(batches)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = train_step_at(step)(state, batch)
        if step == first_step:  # warms everything up: written at once and timed by nobody
            writer.write(step + 1, {name: float(value) for name, value in metrics.items()})
            jax.block_until_ready(state)
            throughput.start(step + 1)
        elif (step + 1) % log_every == 0 or step + 1 == total_steps:
            throughput.mark(step + 1)
            log(deferred.push(step + 1, metrics))
    log(deferred.flush())
    jax.block_until_ready(state)
    pause_tasks(total_steps)
    checkpoints.save(total_steps, state)
    return Outcome(state, sorted(speeds)[len(speeds) // 2] if speeds else 0.0)
