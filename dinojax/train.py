"""Pretrain a backbone: ``python -m dinojax.train --config=configs/quickstart.py --workdir=runs/x``.

The whole run is a function of (config, data, seed). Run the same command again to resume.
"""

import contextlib
import functools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from jax.sharding import Mesh
from ml_collections import config_flags

from dinojax import mesh as meshes
from dinojax import trees
from dinojax.build import (
    build_backbone,
    build_flops,
    build_init,
    build_train_step,
    build_views,
)
from dinojax.config import Config, parse_config, to_dict
from dinojax.data.check import fingerprint, verify
from dinojax.data.pipeline import make_loader
from dinojax.data.source import Source
from dinojax.evaluation.features import make_encoder
from dinojax.evaluation.monitor import KnnMonitor, evenly
from dinojax.precision import get_precision
from dinojax.resolutions import resolution_order, resolutions
from dinojax.runtime.checkpoint import abstract
from dinojax.runtime.contract import write_or_check
from dinojax.runtime.exits import STOPS, leave
from dinojax.runtime.loop import Guards, Outcome, TrainStep, run
from dinojax.runtime.metrics import MetricWriter
from dinojax.runtime.nonfinite import NonfiniteSteps
from dinojax.runtime.preemption import Preemption
from dinojax.runtime.quarantine import Quarantine
from dinojax.runtime.rollback import run_segments
from dinojax.runtime.summary import write_summary
from dinojax.runtime.throughput import Throughput, total_peak_flops
from dinojax.runtime.watchdog import Watchdog
from dinojax.safety import advance, make_series, step_teller
from dinojax.ssl.state import TrainState
from dinojax.training_data import open_data
from dinojax.typing import PyTree
from dinojax.validation import validate
from dinojax.views.recipe import RGB_ONLY


def global_batches(batches: Iterator[Any], mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
    """Host batches as global arrays over data and fsdp."""
    sharding = meshes.batch_sharding(mesh)
    for batch in batches:
        yield {
            name: jax.make_array_from_process_local_data(sharding, batch[name])
            for name in ("canvas", "size")
        }


def compile_step(config: Config, mesh: Mesh, state: PyTree) -> TrainStep:
    """The train step of one resolution, ready to run on states like `state`, which may be abstract,
    and batches of `config`."""
    batch, canvas_px = config.train.batch_size, config.data.canvas_px
    channels = config.student.in_chans
    split = meshes.batch_sharding(mesh)
    layout = jax.tree.map(lambda leaf: leaf.sharding, state)
    shapes = {
        "canvas": ((batch, canvas_px, canvas_px, channels), "uint8"),
        "size": ((batch, 2), "int32"),
    }
    start = time.perf_counter()
    step = jax.jit(
        build_train_step(config),
        in_shardings=(layout, split),
        out_shardings=(layout, meshes.replicated(mesh)),
        donate_argnums=0,
    )
    compiled = step.lower(
        state,
        {name: jax.ShapeDtypeStruct(*kind, sharding=split) for name, kind in shapes.items()},
    ).compile()
    logging.info(
        "compiled the step for crops of %d and %d px in %.0f s",
        config.crops.global_crops_size,
        config.crops.local_crops_size,
        time.perf_counter() - start,
    )
    return compiled


def make_monitor(config: Config, bank: Source | None, queries: Source | None) -> KnnMonitor | None:
    """The kNN monitor, or None where the data have no labels or the config wants none."""
    if not config.knn.every_steps:
        return None
    classes = None if bank is None else bank.class_names
    if bank is None or queries is None or classes is None:
        logging.warning("the data have no labels: no kNN monitor")
        return None
    encode = make_encoder(
        build_backbone(config, get_precision(config.train.precision)),
        image_px=config.knn.image_px,
        mean=config.crops.rgb_mean,
        std=config.crops.rgb_std,
    )
    return KnnMonitor(
        encode,
        evenly(bank, config.knn.max_bank),
        evenly(queries, config.knn.max_queries),
        num_classes=len(classes),
        canvas_px=config.data.canvas_px,
        batch_size=config.knn.batch_size,
        read_timeout_s=config.data.read_timeout_s,
        k=config.knn.k,
        temperature=config.knn.temperature,
        channels=config.student.in_chans,
    )


def train(config: Config, workdir: str, allow_change: Sequence[str] = ()) -> dict[str, Any]:
    """Train or resume in `workdir` and return the summary, also written to ``summary.json``.

    Args:
        allow_change: keys that may have other values than at the last start, although the workdir
            is bound to them (`dinojax.runtime.contract`).

    Raises:
        ValueError: an impossible configuration, unreadable data, or a workdir of another run.
        dinojax.runtime.quarantine.BadBudgetError: too many unreadable records.
        dinojax.data.threads.StorageError: a read takes too long, or the storage fails.
        dinojax.runtime.errors.CheckpointError: a checkpoint cannot be written, or none read.
        dinojax.runtime.errors.PreemptedError: SIGTERM; the state is saved.
        dinojax.runtime.errors.DivergedError: too many non-finite steps and no way back.
    """
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp)
    validate(config, batch_shards=meshes.batch_shards(mesh))
    if build_views(config) != config.crops:
        channels = config.student.in_chans
        logging.info("student.in_chans=%d: %s are switched off", channels, RGB_ONLY)
    data = open_data(config)
    reading = {"read_timeout_s": config.data.read_timeout_s}
    for part in (data.source, data.queries):
        if part is not None:
            verify(
                part,
                config.data.canvas_px,
                config.data.verify_images,
                budget=config.data.bad_budget,
                channels=config.student.in_chans,
                **reading,
            )
    identity = fingerprint(data.source, data.order.mixture, **reading)
    write_or_check(workdir, to_dict(config), identity, allow_change)

    compute = get_precision(config.train.precision).compute
    peak = total_peak_flops(mesh.devices.ravel().tolist(), compute)
    with contextlib.ExitStack() as stack:
        leave_early = stack.enter_context(Preemption())
        report = Path(workdir) / f"hang.{jax.process_index()}.txt"
        progress = stack.enter_context(Watchdog(config.train.hang_timeout_s, report))
        stack.enter_context(jax.set_mesh(mesh))
        init = build_init(config)
        shapes = jax.eval_shape(init)
        wanted = abstract(shapes, meshes.shardings(mesh, shapes))
        logging.info("%.1f M student parameters on %s", trees.count(shapes.student) / 1e6, mesh)

        checkpoints, *_ = series = [
            stack.enter_context(saves) for saves in make_series(config.checkpoint, workdir)
        ]
        guards = Guards(
            leave_early,
            progress,
            NonfiniteSteps(
                workdir,
                checkpoints,
                describe=step_teller(workdir, data, mesh),
                rollback_after=config.train.rollback_after,
            ),
        )
        monitor = make_monitor(config, data.bank, data.queries)
        choice = resolution_order(config)
        flops = [float(build_flops(one)) for one in resolutions(config)]

        @functools.cache
        def train_steps() -> list[TrainStep]:
            # Ahead of the data: a resolution that comes late must not stop the run to compile.
            return [compile_step(one, mesh, wanted) for one in resolutions(config)]

        def resume() -> tuple[int | None, TrainState]:
            resumed = checkpoints.restore_newest(wanted)
            if resumed is None:
                layout = jax.tree.map(lambda leaf: leaf.sharding, wanted)
                return None, jax.jit(init, out_shardings=layout)()
            logging.info("resuming from step %d", resumed[0])
            return resumed

        def attempt(latest: int | None, state: TrainState, first_step: int, until: int) -> Outcome:
            """Steps ``first_step .. until - 1``."""
            steps = train_steps()
            processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
            loader = make_loader(
                data.source,
                data.order,
                canvas_px=config.data.canvas_px,
                start_step=first_step,
                num_workers=config.data.num_workers,
                prefetch_mb=config.data.prefetch_mb,
                channels=config.student.in_chans,
                **reading,
                **processes,
            )
            quarantine = Quarantine(
                workdir,
                global_batch=config.train.batch_size,
                first_step=first_step,
                budget=config.data.bad_budget,
                **processes,
            )
            with (
                contextlib.closing(loader),
                MetricWriter(workdir, resumed_from=latest) as writer,
            ):
                return run(
                    state,
                    first_step=first_step,
                    until=until,
                    total_steps=config.train.steps,
                    train_step_at=lambda step: steps[choice.at(step)[0]],
                    batches=global_batches(quarantine.watch(loader), mesh),
                    evaluate=monitor or (lambda state: {}),
                    evaluate_every=config.knn.every_steps if monitor else 0,
                    series=series,
                    writer=writer,
                    throughput=Throughput(
                        first_step,
                        total_steps=config.train.steps,
                        images_per_step=config.train.batch_size,
                        flops_at=lambda step: flops[choice.at(step)[0]],
                        peak_flops=peak,
                    ),
                    log_every=config.train.log_every_steps,
                    guards=guards,
                )

        outcome = run_segments(
            attempt,
            resume=resume,
            restore=functools.partial(checkpoints.restore, wanted),
            advance=advance,
            series=series,
            workdir=workdir,
            total_steps=config.train.steps,
        )
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
    try:
        given = flags.FLAGS
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
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.INFO)
    # Orbax reports every file operation at INFO: 50 lines a checkpoint.
    logging.get_absl_handler().addFilter(lambda record: "orbax" not in record.pathname)
    jax.config.config_with_absl()
    app.run(main)
