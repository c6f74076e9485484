"""Pretrain a backbone: ``python -m dinojax.train --config=configs/quickstart.py --workdir=runs/x``.

The whole run is a function of (config, data, seed). Run the same command again to resume. On
several hosts the same command runs once on each (docs/scaling.md).
"""

import contextlib
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
from dinojax.planning.mesh_choice import choose_mesh, shortfall
from dinojax.planning.topologies import chip_of
from dinojax.precision import get_precision
from dinojax.resolutions import resolution_order, resolutions
from dinojax.runtime import cluster
from dinojax.runtime.agreement import agree, check_shared, program
from dinojax.runtime.checkpoint import Checkpoints, abstract
from dinojax.runtime.contract import FILE as CONTRACT_FILE
from dinojax.runtime.contract import write_or_check
from dinojax.runtime.exits import STOPS, exit_code, leave
from dinojax.runtime.loop import run
from dinojax.runtime.metrics import MetricWriter
from dinojax.runtime.quarantine import Quarantine
from dinojax.runtime.summary import write_summary
from dinojax.runtime.throughput import Throughput, total_peak_flops
from dinojax.training_data import open_data
from dinojax.typing import PyTree
from dinojax.views.recipe import RGB_ONLY


def global_batches(
    batches: Iterator[Any], placement: meshes.BatchLayout
) -> Iterator[dict[str, jax.Array]]:
    """Host batches, which hold the rows of `placement`, as global arrays."""
    for batch in batches:
        yield {name: placement.place(batch[name]) for name in ("canvas", "size")}


def make_mesh(config: Config) -> Mesh:
    """The mesh of `planning.mesh_choice` over all devices.

    Raises:
        ValueError: an impossible configuration, or one that no mesh of these devices has room for.
    """
    devices = jax.devices()
    chip = chip_of(devices[0].device_kind)
    hbm = None if chip is None else chip.hbm_bytes
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    choice = choose_mesh(config, len(devices), hbm, slices)
    logging.info("mesh %s: %s", dict(choice.shape._asdict()), choice.reason)
    if hbm is not None and choice.memory.total > hbm:
        logging.warning("%s", shortfall(config, choice.shape, choice.memory, hbm))
    return meshes.make_mesh(*choice.shape)


def compile_step(
    config: Config, mesh: Mesh, state: PyTree, options: dict[str, Any] | None = None
) -> Any:
    """The train step of one resolution, ready to run on `state` and batches of `config`.

    `state` may be of shapes with shardings, for devices that are not there; `options` are the
    compiler's.
    """
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
    ).compile(compiler_options=options)
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


def train(config: Config, workdir: str) -> dict[str, Any]:
    """Train or resume in `workdir` and return the summary, also written to ``summary.json``.

    On several processes all make this call, and the first one writes.

    Raises:
        ValueError: an impossible configuration, unreadable data, a workdir of another run, or
            processes that differ in any of these.
        dinojax.runtime.quarantine.BadBudgetError: too many unreadable records.
        dinojax.data.threads.StorageError: a read takes too long, or the storage fails.
    """
    agree("program", program(to_dict(config)))
    mesh = make_mesh(config)
    cluster.connect(mesh)
    if build_views(config) != config.crops:
        channels = config.student.in_chans
        logging.info("student.in_chans=%d: %s are switched off", channels, RGB_ONLY)
    data = open_data(config)
    timeout = config.data.read_timeout_s
    for part in (data.source, data.queries):
        if part is not None:
            verify(
                part,
                config.data.canvas_px,
                config.data.verify_images,
                budget=config.data.bad_budget,
                channels=config.student.in_chans,
                read_timeout_s=timeout,
            )
    found = fingerprint(data.source, data.order.mixture, read_timeout_s=timeout)
    agree("data", {"data fingerprint": found.digest})
    write_or_check(workdir, to_dict(config), found._asdict())
    check_shared(Path(workdir) / CONTRACT_FILE)

    steps = config.train.steps
    compute = get_precision(config.train.precision).compute
    peak = total_peak_flops(mesh.devices.ravel().tolist(), compute)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        init = build_init(config)
        shapes = jax.eval_shape(init)
        layout = meshes.shardings(mesh, shapes)
        logging.info("%.1f M student parameters on %s", trees.count(shapes.student) / 1e6, mesh)

        checkpoints = stack.enter_context(
            Checkpoints(
                f"{workdir}/checkpoints",
                every_steps=config.checkpoint.every_steps,
                keep_last=config.checkpoint.keep_last,
                keep_every_steps=config.checkpoint.keep_every_steps,
            )
        )
        latest = checkpoints.latest_step()
        agree("checkpoints", {"newest checkpoint": latest})
        if latest is None:
            state = jax.jit(init, out_shardings=layout)()
        else:
            logging.info("resuming from step %d", latest)
            state = checkpoints.restore(abstract(shapes, layout))
        first_step = latest or 0

        # Ahead of the data: a resolution that comes late must not stop the run to compile.
        choice = resolution_order(config)
        train_steps = [compile_step(one, mesh, state) for one in resolutions(config)]
        cluster.gather("compiled", "")  # collectives do not wait long for those who come late
        flops = [float(build_flops(one)) for one in resolutions(config)]
        placement = meshes.BatchLayout(mesh, config.train.batch_size)
        loader = make_loader(
            data.source,
            data.order,
            canvas_px=config.data.canvas_px,
            start_step=first_step,
            num_workers=config.data.num_workers,
            prefetch_mb=config.data.prefetch_mb,
            slots=placement.rows,
            channels=config.student.in_chans,
            read_timeout_s=timeout,
        )
        quarantine = Quarantine(
            workdir,
            global_batch=config.train.batch_size,
            first_step=first_step,
            budget=config.data.bad_budget,
            slots=placement.rows,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        monitor = make_monitor(config, data.bank, data.queries)
        outcome = run(
            state,
            first_step=first_step,
            total_steps=steps,
            train_step_at=lambda step: train_steps[choice.at(step)[0]],
            batches=global_batches(
                quarantine.watch(stack.enter_context(contextlib.closing(loader))), placement
            ),
            evaluate=monitor or (lambda state: {}),
            evaluate_every=config.knn.every_steps if monitor else 0,
            checkpoints=checkpoints,
            writer=stack.enter_context(MetricWriter(workdir, resumed_from=latest)),
            throughput=Throughput(
                first_step,
                total_steps=steps,
                images_per_step=config.train.batch_size,
                flops_at=lambda step: flops[choice.at(step)[0]],
                peak_flops=peak,
            ),
            log_every=config.train.log_every_steps,
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
            summary = train(parse_config(given.config), given.workdir)
    except STOPS as error:
        logging.debug("stopped", exc_info=True)
        print(f"dinojax.train: {error}", file=sys.stderr)
        leave(error)
    for name, value in summary.items():
        print(f"{name:>16}  {value}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", lock_config=True)
    flags.DEFINE_string("workdir", None, "Where the run lives: config, metrics, checkpoints.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, the same for all processes.")
    flags.DEFINE_integer("num_processes", None, "Processes of this run, one or more on each host.")
    flags.DEFINE_integer("process_id", None, "Which of them this is: 0 .. num_processes - 1.")
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.INFO)
    # Orbax reports every file operation at INFO: 50 lines a checkpoint.
    logging.get_absl_handler().addFilter(lambda record: "orbax" not in record.pathname)
    jax.config.config_with_absl()
    app.run(main)
