"""What a run executes on its mesh: the compiled train step of a resolution, and batches for it."""

import time
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh
from jax.stages import Compiled

from dinojax import mesh as meshes
from dinojax.build.step import build_train_step
from dinojax.config import Config
from dinojax.typing import PyTree


def compile_step(
    config: Config, mesh: Mesh, state: PyTree, options: dict[str, Any] | None = None
) -> Compiled:
    """The train step of one resolution, to run on states like `state` and batches of `config`.

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


def global_batches(
    batches: Iterator[Any], placement: meshes.BatchLayout
) -> Iterator[dict[str, jax.Array]]:
    """Host batches, which hold the rows of `placement`, as global arrays."""
    for batch in batches:
        yield {name: placement.place(batch[name]) for name in ("canvas", "size")}
