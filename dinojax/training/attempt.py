"""Steps of a run from one state on, with all that watches over them.

A run is one attempt, or several if it goes back to older checkpoints (`dinojax.runtime.rollback`).
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
from jax.sharding import Mesh

from dinojax.build.flops import build_flops
from dinojax.build.monitor import make_monitor
from dinojax.build.panels import make_panels
from dinojax.config import Config
from dinojax.config.resolutions import resolution_order, resolutions
from dinojax.mesh import BatchLayout
from dinojax.runtime import cluster
from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.errors import underway
from dinojax.runtime.guardian import Guardian
from dinojax.runtime.loop import Guards, Outcome, Pictures, TrainStep, run
from dinojax.runtime.metrics import MetricWriter
from dinojax.runtime.nonfinite import NonfiniteSteps
from dinojax.runtime.quarantine import Quarantine
from dinojax.runtime.throughput import Throughput
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.training.compiled_step import compile_step, global_batches
from dinojax.training.data import TrainingData, load_batches
from dinojax.training.safety import recovery_teller, step_teller

Attempt = Callable[[int | None, TrainState | Students, int, int], Outcome]
"""``(checkpoint, state, first, until)``: train on `state`, which was saved as that checkpoint
(None: it is the initial one), by the steps ``first .. until - 1``."""


def make_attempt(
    config: Config,
    workdir: str,
    mesh: Mesh,
    data: TrainingData,
    like: TrainState | Students,
    series: Sequence[Checkpoints],
    *,
    peak_flops: float,
    leave_early: Callable[[], bool],
    progress: Callable[[], None],
) -> Attempt:
    """What `run_segments` calls.

    Args:
        like: shapes and shardings of the state.
        series: what is saved along the run, the checkpoints that it resumes from first.
        peak_flops: per second, of all devices, as `total_peak_flops` tells.
        leave_early, progress: `Guards.asked_to_leave` and `Guards.progress`.
    """
    refused = NonfiniteSteps(
        workdir,
        series[0],
        describe=step_teller(workdir, data, mesh),
        rollback_after=config.train.rollback_after,
    )
    announce = recovery_teller(config.recovery)
    monitor = make_monitor(config, data.bank, data.queries)
    draw = make_panels(config, data.queries, mesh)
    choice = resolution_order(config)
    flops = [float(build_flops(one)) for one in resolutions(config)]
    placement = BatchLayout(mesh, config.train.batch_size)

    @functools.cache
    def train_steps() -> list[TrainStep]:
        # Ahead of the data: a resolution that comes late must not stop the run to compile.
        compiled = [compile_step(one, mesh, like) for one in resolutions(config)]
        cluster.gather("compiled", "")  # collectives do not wait long for those who come late
        return compiled

    def attempt(
        latest: int | None, state: TrainState | Students, first: int, until: int
    ) -> Outcome:
        steps = train_steps()
        progress()
        quarantine = Quarantine(
            workdir,
            global_batch=config.train.batch_size,
            first_step=first,
            budget=config.data.bad_budget,
            slots=placement.rows,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        with (
            contextlib.closing(load_batches(config, data, placement, first)) as loader,
            MetricWriter(workdir, resumed_from=latest) as writer,
            underway(),
        ):
            guardian = Guardian(
                workdir,
                writer,
                resumed_from=latest,
                first_step=first,
                total_steps=config.train.steps,
                action=config.guardian.action,
                ignore=config.guardian.ignore,
            )

            def logged(step: int, values: Mapping[str, float]) -> None:
                announce(step, values)
                guardian.logged(step, values)

            return run(
                state,
                first_step=first,
                until=until,
                total_steps=config.train.steps,
                train_step_at=lambda step: steps[choice.at(step)[0]],
                batches=global_batches(quarantine.watch(loader), placement),
                evaluate=monitor or (lambda state: {}),
                evaluate_every=config.knn.every_steps if monitor else 0,
                series=series,
                writer=writer,
                throughput=Throughput(
                    first,
                    total_steps=config.train.steps,
                    images_per_step=config.train.batch_size,
                    flops_at=lambda step: flops[choice.at(step)[0]],
                    peak_flops=peak_flops,
                ),
                log_every=config.train.log_every_steps,
                guards=Guards(
                    leave_early,
                    progress,
                    refused,
                    logged,
                    guardian.scored,
                    guardian.asked_to_stop,
                ),
                pictures=Pictures(config.panels.every_steps, draw) if draw else None,
            )

    return attempt
