"""Pretrain a backbone: ``python -m dinojax.train --config=configs/quickstart.py --workdir=runs/x``.

The whole run is a function of (config, data, seed). Run the same command again to resume. On
several hosts the same command runs once on each (docs/scaling.md).
"""

import contextlib
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging
from ml_collections import config_flags

from dinojax import command, trees
from dinojax import mesh as meshes
from dinojax.build.gram import build_refresh
from dinojax.build.inputs import build_views
from dinojax.build.step import build_init
from dinojax.config import Config, parse_config, to_dict
from dinojax.precision import get_precision
from dinojax.runtime import cluster
from dinojax.runtime.agreement import agree, program
from dinojax.runtime.checkpoint import abstract
from dinojax.runtime.exits import STOPS, exit_code, leave
from dinojax.runtime.lock import locked
from dinojax.runtime.preemption import Preemption
from dinojax.runtime.rollback import run_segments
from dinojax.runtime.summary import finished, write_summary
from dinojax.runtime.throughput import total_peak_flops
from dinojax.runtime.watchdog import Watchdog
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.training.attempt import make_attempt
from dinojax.training.binding import bind, identify
from dinojax.training.compiled_step import global_batches
from dinojax.training.data import load_batches, open_data
from dinojax.training.frozen_teacher import with_teacher, without_teacher
from dinojax.training.gram_choice import choose_gram_teacher
from dinojax.training.initial_state import make_initial_state
from dinojax.training.mesh import run_mesh
from dinojax.training.safety import advance, make_series
from dinojax.views.recipe import RGB_ONLY

LAST_WORDS_S = 60.0
"""How long a process that is being ended may go on to hold its workdir."""


def train(config: Config, workdir: str, allow_change: Sequence[str] = ()) -> dict[str, Any]:
    """Train or resume in `workdir` and return the summary, also written to ``summary.json``.

    On several processes all make this call, and the first one writes.

    Args:
        allow_change: keys that may have other values than at the last start, although the workdir
            is bound to them (`dinojax.runtime.contract`).

    Raises:
        ValueError: an impossible configuration, unreadable data, a workdir of another run or with
            another process that trains there, or processes that differ in any of these.
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
    identity = identify(config, data)
    compute = get_precision(config.train.precision).compute
    peak_flops = total_peak_flops(mesh.devices.ravel().tolist(), compute)

    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(locked(Path(workdir), "dinojax.train", wait_s=LAST_WORDS_S))
        bind(workdir, config, identity, allow_change)
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
        placement = meshes.BatchLayout(mesh, config.train.batch_size)

        def first_batches(count: int) -> Iterator[dict[str, jax.Array]]:
            with contextlib.closing(load_batches(config, data, placement, 0)) as loader:
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

        outcome = run_segments(
            make_attempt(
                config,
                workdir,
                mesh,
                data,
                wanted,
                series,
                peak_flops=peak_flops,
                leave_early=leave_early,
                progress=progress,
            ),
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
        command.refuse(f"unknown arguments {list(argv[1:])}; options start with --")
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
    config_flags.DEFINE_config_file("config", lock_config=True)
    flags.DEFINE_string("workdir", None, "Where the run lives: config, metrics, checkpoints.")
    flags.DEFINE_multi_string(
        "allow_change", [], "Key that may change in this workdir, as optim.lr.peak; repeatable."
    )
    cluster.define_flags()
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.INFO)
    jax.config.config_with_absl()
    command.run(main)
