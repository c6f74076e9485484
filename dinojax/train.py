"""Pretrain a backbone: ``python -m dinojax.train --config=configs/quickstart.py --workdir=runs/x``.

The whole run is a function of (config, data, seed). Run the same command again to resume. On
several hosts the same command runs once on each (docs/scaling.md).
"""

import contextlib
import functools
import itertools
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from dinojax import mesh as meshes
from dinojax import trees
from dinojax.build import build_init
from dinojax.build_flops import build_flops
from dinojax.build_gram import build_refresh
from dinojax.build_inputs import build_views
from dinojax.build_monitor import make_monitor
from dinojax.build_panels import make_panels
from dinojax.compiled_step import compile_step, global_batches
from dinojax.config import Config, parse_config, to_dict
from dinojax.config_parse import quote_keywords
from dinojax.data.check import fingerprint, verify
from dinojax.data.pipeline import TrainBatch, make_loader
from dinojax.frozen_teacher import teacher_digest, with_teacher, without_teacher
from dinojax.gram_choice import choose_gram_teacher
from dinojax.initial_state import make_initial_state
from dinojax.precision import get_precision
from dinojax.resolutions import resolution_order, resolutions
from dinojax.run_mesh import run_mesh
from dinojax.runtime import cluster
from dinojax.runtime.agreement import agree, check_shared, program
from dinojax.runtime.checkpoint import abstract, mute
from dinojax.runtime.contract import FILE as CONTRACT_FILE
from dinojax.runtime.contract import write_or_check
from dinojax.runtime.errors import underway
from dinojax.runtime.exits import STOPS, exit_code, leave
from dinojax.runtime.guardian import Guardian
from dinojax.runtime.loop import Guards, Outcome, Pictures, TrainStep, run
from dinojax.runtime.metrics import MetricWriter
from dinojax.runtime.nonfinite import NonfiniteSteps
from dinojax.runtime.preemption import Preemption
from dinojax.runtime.quarantine import Quarantine
from dinojax.runtime.rollback import run_segments
from dinojax.runtime.summary import finished, write_summary
from dinojax.runtime.throughput import Throughput, total_peak_flops
from dinojax.runtime.watchdog import Watchdog
from dinojax.safety import advance, make_series, recovery_teller, step_teller
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.starting_weights import start_digest
from dinojax.training_data import open_data
from dinojax.views.recipe import RGB_ONLY


def train(config: Config, workdir: str, allow_change: Sequence[str] = ()) -> dict[str, Any]:
    """Train or resume in `workdir` and return the summary, also written to ``summary.json``.

    On several processes all make this call, and the first one writes.

    Args:
        allow_change: keys that may have other values than at the last start, although the workdir
            is bound to them (`dinojax.runtime.contract`).

    Raises:
        ValueError: an impossible configuration, unreadable data, a workdir of another run, or
            processes that differ in any of these.
        dinojax.runtime.quarantine.BadBudgetError: too many unreadable records.
        dinojax.data.threads.StorageError: a read takes too long, or the storage fails.
        FileNotFoundError: init.from or a teacher names no checkpoint.
        dinojax.runtime.errors.CheckpointError: a checkpoint cannot be written, or none read.
        dinojax.runtime.errors.PreemptedError: SIGTERM; the state is saved.
        dinojax.runtime.errors.AlarmedError: an alarm, by guardian.action; the state is saved.
        dinojax.runtime.errors.DivergedError: too many non-finite steps and no way back.
    """
    config = choose_gram_teacher(config, workdir)
    agree("program", program(to_dict(config)) | {"--allow_change": list(allow_change)})
    mesh = run_mesh(config)
    cluster.connect(mesh)
    if build_views(config) != config.crops:
        channels = config.student.in_chans
        logging.info("student.in_chans=%d: %s are switched off", channels, RGB_ONLY)
    data = open_data(config)
    timeout = config.data.read_timeout_s
    for part in (data.source, data.queries):
        verify(
            part,
            config.data.canvas_px,
            config.data.verify_images,
            budget=config.data.bad_budget,
            channels=config.student.in_chans,
            read_timeout_s=timeout,
        )
    found = fingerprint(data.source, data.order.mixture, read_timeout_s=timeout)
    weights = {**teacher_digest(config), **start_digest(config)}
    agree("data", {"data fingerprint": found.digest, **weights})
    write_or_check(workdir, to_dict(config), found._asdict(), allow_change, weights)
    check_shared(Path(workdir) / CONTRACT_FILE)

    compute = get_precision(config.train.precision).compute
    peak = total_peak_flops(mesh.devices.ravel().tolist(), compute)
    with contextlib.ExitStack() as stack:
        leave_early = stack.enter_context(Preemption())
        report = Path(workdir) / f"hang.{jax.process_index()}.txt"
        progress = stack.enter_context(Watchdog(config.train.hang_timeout_s, report))
        stack.enter_context(jax.set_mesh(mesh))
        shapes = jax.eval_shape(build_init(config))
        wanted = abstract(shapes, meshes.shardings(mesh, shapes))
        saved = without_teacher(wanted)
        logging.info("%.1f M student parameters on %s", trees.count(shapes.student) / 1e6, mesh)

        series = [stack.enter_context(one) for one in make_series(config.checkpoint, workdir)]
        checkpoints = series[0]
        done = finished(workdir, checkpoints, config.train.steps)
        if done is not None:
            logging.info("%s is finished", workdir)
            return {} if jax.process_index() else done
        refused = NonfiniteSteps(
            workdir,
            checkpoints,
            describe=step_teller(workdir, data, mesh),
            rollback_after=config.train.rollback_after,
        )
        announce = recovery_teller(config.recovery)
        monitor = make_monitor(config, data.bank, data.queries)
        draw = make_panels(config, data.queries, mesh)
        choice = resolution_order(config)
        flops = [float(build_flops(one)) for one in resolutions(config)]
        placement = meshes.BatchLayout(mesh, config.train.batch_size)

        @functools.cache
        def train_steps() -> list[TrainStep]:
            # Ahead of the data: a resolution that comes late must not stop the run to compile.
            compiled = [compile_step(one, mesh, wanted) for one in resolutions(config)]
            cluster.gather("compiled", "")  # collectives do not wait long for those who come late
            return compiled

        def batches_from(step: int) -> Generator[TrainBatch, None, None]:
            return make_loader(
                data.source,
                data.order,
                canvas_px=config.data.canvas_px,
                start_step=step,
                num_workers=config.data.num_workers,
                prefetch_mb=config.data.prefetch_mb,
                slots=placement.rows,
                channels=config.student.in_chans,
                read_timeout_s=timeout,
            )

        def first_batches(count: int) -> Iterator[dict[str, jax.Array]]:
            with contextlib.closing(batches_from(0)) as loader:
                yield from global_batches(itertools.islice(loader, count), placement)

        def resume() -> tuple[int | None, TrainState | Students]:
            resumed = checkpoints.restore_newest(saved)
            if resumed is None:
                return None, make_initial_state(config, wanted, first_batches)
            step, state = resumed
            logging.info("resuming from step %d", step)
            return step, with_teacher(state, config, wanted)

        def restore(step: int) -> TrainState | Students:
            progress()  # here training has begun, so that each has the time of a step
            return with_teacher(checkpoints.restore(saved, step), config, wanted)

        def attempt(
            latest: int | None, state: TrainState | Students, first: int, until: int
        ) -> Outcome:
            """Steps ``first .. until - 1``."""
            steps = train_steps()
            progress()
            loader = batches_from(first)
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
                contextlib.closing(loader),
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
                        peak_flops=peak,
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

        outcome = run_segments(
            attempt,
            resume=resume,
            restore=restore,
            advance=functools.partial(advance, refresh=build_refresh(config.gram)),
            series=series,
            step_of=lambda state: int(state.step),
            workdir=workdir,
            total_steps=config.train.steps,
        )
    if jax.process_index():
        return {}
    return write_summary(
        workdir,
        {
            "images_per_s": outcome.images_per_second,
            "steps": int(outcome.state.step),
            "nonfinite_steps": int(outcome.state.refused_steps),
        },
    )


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {list(argv[1:])}; options start with --")
    given = flags.FLAGS
    try:
        cluster.start(given.coordinator, given.num_processes, given.process_id)
        with cluster.together("dinojax.train", exit_code):
            if jax.process_index():
                logging.set_verbosity(logging.WARNING)  # what the first says goes for all
            summary = train(parse_config(given.config), given.workdir, given.allow_change)
    except STOPS as error:
        logging.debug("stopped", exc_info=True)
        print(f"dinojax.train: {error}", file=sys.stderr)
        leave(error)
    for name, value in summary.items():
        print(f"{name:>16}  {value}")


if __name__ == "__main__":
    sys.argv[:] = quote_keywords(sys.argv)
    config_flags.DEFINE_config_file("config", lock_config=True)
    flags.DEFINE_string("workdir", None, "Where the run lives: config, metrics, checkpoints.")
    flags.DEFINE_multi_string(
        "allow_change", [], "Key that may change in this workdir, as optim.lr.peak; repeatable."
    )
    cluster.define_flags()
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.INFO)
    mute()
    jax.config.config_with_absl()
    app.run(main)
