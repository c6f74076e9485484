"""The training loop. Its order is a contract:

1. evaluate the state if its step is due (so also before the first step),
2. save the state if its step is due,
3. take the batch of that step,
4. run the step,
5. log, one period late.

Evaluation comes before saving: a crash between the two repeats a score instead of losing it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from absl import logging

from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.metrics import Deferred, MetricWriter
from dinojax.runtime.throughput import Rates, Throughput, progress_line

State = Any


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
    train_step: Callable[[State, Any], tuple[State, dict[str, jax.Array]]],
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
        train_step: jitted; donates its state.
        batches: global device arrays from `first_step` on.
        evaluate: scores of a state by name; not called if `evaluate_every` is 0.
    """
    deferred, speeds = Deferred(), []

    def log(ready: list[tuple[int, dict[str, float]]], rates: Rates | None) -> None:
        for step, values in ready:
            if rates is not None:
                values |= {"images_per_s": rates.images_per_second, "mfu": rates.mfu}
                values |= {"data_wait": rates.data_wait}
                logging.info(progress_line(step, total_steps, values["total_loss"], rates))
            writer.write(step, values)

    def pause_tasks(step: int) -> None:
        if evaluate_every and (step % evaluate_every == 0 or step == total_steps):
            with throughput.pause(state):
                scores = evaluate(state)
            text = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            logging.info("step %d/%d  %s", step, total_steps, text)
            writer.write(step, scores)
        if step > first_step:
            with throughput.pause():
                checkpoints.maybe_save(step, state)

    for step in range(first_step, total_steps):
        pause_tasks(step)
        with throughput.waiting():
            batch = next(batches)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            if step == first_step:  # the only compilation
                with throughput.pause(state):
                    state, metrics = jax.block_until_ready(train_step(state, batch))
            else:
                state, metrics = train_step(state, batch)
        if step == first_step:
            log([(step + 1, {k: float(v) for k, v in metrics.items()})], None)
        elif (step + 1) % log_every == 0 or step + 1 == total_steps:
            ready = deferred.push(step + 1, metrics)
            rates = throughput.report(step + 1)
            speeds.append(rates.images_per_second)
            log(ready, rates)
    log(deferred.flush(), None)
    jax.block_until_ready(state)
    pause_tasks(total_steps)
    checkpoints.save(total_steps, state)
    return Outcome(state, sorted(speeds)[len(speeds) // 2] if speeds else 0.0)
