"""Pretrain a backbone: ``python -m dinojax.train --config=configs/quickstart.py --workdir=runs/x``.

The whole run is a function of (config, data, seed). Run the same command again to resume.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
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
    build_recipe,
    build_train_step,
)
from dinojax.config import Config, parse_config, to_dict
from dinojax.data.check import fingerprint, verify
from dinojax.data.open import open_source
from dinojax.data.pipeline import make_loader
from dinojax.data.source import Source
from dinojax.data.subset import holdout
from dinojax.evaluation.features import make_encoder
from dinojax.evaluation.monitor import KnnMonitor, evenly
from dinojax.precision import get_precision
from dinojax.runtime.checkpoint import Checkpoints, abstract
from dinojax.runtime.contract import write_or_check
from dinojax.runtime.loop import run
from dinojax.runtime.metrics import MetricWriter
from dinojax.runtime.summary import write_summary
from dinojax.runtime.throughput import Throughput, total_peak_flops
from dinojax.validation import validate
from dinojax.views.recipe import RGB_ONLY


def open_sources(config: Config) -> tuple[Source, Source]:
    """Training records and the held-out records of the kNN monitor."""
    data = config.data
    if data.source != "scenes":
        return holdout(open_source(data.source), data.holdout)
    if not 0 < data.holdout < 1:
        raise ValueError(f"data.holdout={data.holdout} must lie between 0 and 1; use 0.1")
    scenes = {"image_px": data.scenes.image_px, "num_classes": data.scenes.num_classes}
    held = max(round(data.scenes.num_images * data.holdout), 1)
    return (
        open_source("scenes", num_images=data.scenes.num_images, split="train", **scenes),
        open_source("scenes", num_images=held, split="test", **scenes),
    )


def global_batches(batches: Iterator[Any], mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
    """Host batches as global arrays over data and fsdp."""
    sharding = meshes.batch_sharding(mesh)
    for batch in batches:
        yield {
            name: jax.make_array_from_process_local_data(sharding, batch[name])
            for name in ("canvas", "size")
        }


def make_monitor(config: Config, bank: Source, queries: Source) -> KnnMonitor | None:
    """The kNN monitor, or None where the source has no labels or the config wants none."""
    classes = bank.class_names
    if not config.knn.every_steps:
        return None
    if classes is None:
        logging.warning("%s has no labels: no kNN monitor", config.data.source)
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
        k=config.knn.k,
        temperature=config.knn.temperature,
        channels=config.student.in_chans,
    )


def train(config: Config, workdir: str) -> dict[str, Any]:
    """Train or resume in `workdir` and return the summary, also written to ``summary.json``.

    Raises:
        ValueError: an impossible configuration, unreadable data, or a workdir of another run.
    """
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp)
    validate(config, batch_shards=meshes.batch_shards(mesh))
    if build_recipe(config) != config.crops:
        channels = config.student.in_chans
        logging.info("student.in_chans=%d: %s are switched off", channels, RGB_ONLY)
    source, queries = open_sources(config)
    for part in (source, queries):
        verify(part, config.data.canvas_px, config.data.verify_images, config.student.in_chans)
    write_or_check(workdir, to_dict(config), fingerprint(source))

    steps, batch_size = config.train.steps, config.train.batch_size
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
        if latest is None:
            state = jax.jit(init, out_shardings=layout)()
        else:
            logging.info("resuming from step %d", latest)
            state = checkpoints.restore(abstract(shapes, layout))
        first_step = latest or 0

        train_step = jax.jit(
            build_train_step(config),
            in_shardings=(layout, meshes.batch_sharding(mesh)),
            out_shardings=(layout, meshes.replicated(mesh)),
            donate_argnums=0,
        )
        loader = make_loader(
            source,
            global_batch=batch_size,
            canvas_px=config.data.canvas_px,
            seed=config.train.seed,
            start_step=first_step,
            num_workers=config.data.num_workers,
            channels=config.student.in_chans,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        monitor = make_monitor(config, source, queries)
        outcome = run(
            state,
            first_step=first_step,
            total_steps=steps,
            train_step=train_step,
            batches=global_batches(stack.enter_context(contextlib.closing(loader)), mesh),
            evaluate=monitor or (lambda state: {}),
            evaluate_every=config.knn.every_steps if monitor else 0,
            checkpoints=checkpoints,
            writer=stack.enter_context(MetricWriter(workdir, resumed_from=latest)),
            throughput=Throughput(
                first_step,
                total_steps=steps,
                images_per_step=batch_size,
                flops_per_step=float(build_flops(config)),
                peak_flops=peak,
            ),
            log_every=config.train.log_every_steps,
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
        summary = train(parse_config(flags.FLAGS.config), flags.FLAGS.workdir)
    except (ValueError, FileNotFoundError) as error:
        logging.debug("refused", exc_info=True)
        print(f"dinojax.train: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for name, value in summary.items():
        print(f"{name:>16}  {value}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", lock_config=True)
    flags.DEFINE_string("workdir", None, "Where the run lives: config, metrics, checkpoints.")
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.INFO)
    # Orbax reports every file operation at INFO: 50 lines a checkpoint.
    logging.get_absl_handler().addFilter(lambda record: "orbax" not in record.pathname)
    jax.config.config_with_absl()
    app.run(main)
