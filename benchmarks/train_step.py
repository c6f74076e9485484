"""Speed and memory of the real train step, for any preset, crops, prototypes, dtype and batch.

    python benchmarks/train_step.py --preset=vits16 --global_px=112 --local_px=48 --local_crops=8 \
        --batch=4 --prototypes=4096 --dtype=float32 --steps=5

A table on stderr; the last line is one JSON object. Views are part of the step; decoding is not.
`mfu` is the share of a device's measured peak that the model's FLOPs reach; bytes are those of the
state, read and written once, the least that a step moves. Compiled programs are kept in
`--cache_dir`: the second run of a setting shows memory and start-up without compilation. With
`--steps=0` nothing is run: the compiler's count of temporary memory alone.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import measure
import numpy as np
from floor import Work, device_name, measured_floor, size_of

from dinojax import mesh as meshes
from dinojax.build.flops import build_flops
from dinojax.build.step import build_init, build_train_step
from dinojax.config import Config, default_config, parse_config
from dinojax.config.validation import validate


def arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    parser = measure.step_arguments(__doc__)
    parser.add_argument("--canvas_px", type=int, default=None, help="None: 8/7 of global_px")
    parser.add_argument("--remat", default="dots")
    parser.add_argument("--attention", default=None, help="a backend; default: the best here")
    parser.add_argument("--micro_batches", type=int, default=1)
    parser.add_argument("--prototype_chunk", type=int, default=None)
    parser.add_argument("--moments_dtype", default=None)
    parser.add_argument("--drop_path_rate", type=float, default=0.0)
    parser.add_argument(
        "--cache_dir",
        default=os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache / "dinojax" / "xla"),
        help="persistent compilation cache; empty for none",
    )
    return parser.parse_args()


def step_config(
    args: argparse.Namespace,
    *,
    remat: str = "none",
    attention: str | None = None,
    drop_path_rate: float = 0.0,
    canvas_px: int | None = None,
    micro_batches: int = 1,
    prototype_chunk: int | None = None,
    moments_dtype: str | None = None,
) -> Config:
    """The default configuration with the sizes of the benchmark."""
    config = default_config()
    config.student.arch = args.preset
    config.student.depth = args.depth
    config.student.attention_backend = attention
    config.student.remat = remat
    config.student.drop_path_rate = drop_path_rate
    config.crops.global_crops_size = args.global_px
    config.crops.local_crops_size = args.local_px
    config.crops.local_crops_number = args.local_crops
    config.dino.head.n_prototypes = config.ibot.head.n_prototypes = args.prototypes
    config.train.batch_size = args.batch
    config.train.draw_group_size = max(args.batch // (jax.device_count() * micro_batches), 1)
    config.train.precision = args.dtype
    config.train.micro_batches = micro_batches
    config.train.prototype_chunk = prototype_chunk
    config.optim.moments_dtype = moments_dtype
    config.data.canvas_px = canvas_px or args.global_px * 8 // 7
    config.knn.every_steps = 0
    return parse_config(config)


def random_batch(images: int, canvas_px: int) -> dict[str, np.ndarray]:
    """Canvases of uniform noise without padding."""
    rng = np.random.default_rng(0)
    return {
        "canvas": rng.integers(0, 256, (images, canvas_px, canvas_px, 3), np.uint8),
        "size": np.full((images, 2), canvas_px, np.int32),
    }


def temporary_mb(program: Any) -> float | None:
    """Memory of a compiled program beside its arguments and results, in MiB per device."""
    memory = program.memory_analysis()
    return None if memory is None else memory.temp_size_in_bytes / 2**20


def device_peak_mb() -> float | None:
    """Highest memory in use on one device so far, in MiB; None where the device does not tell."""
    stats = jax.devices()[0].memory_stats()
    return stats and stats["peak_bytes_in_use"] / 2**20


def main() -> None:
    args = arguments()
    if args.cache_dir:
        jax.config.update("jax_compilation_cache_dir", args.cache_dir)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    config = step_config(
        args,
        remat=args.remat,
        attention=args.attention,
        drop_path_rate=args.drop_path_rate,
        canvas_px=args.canvas_px,
        micro_batches=args.micro_batches,
        prototype_chunk=args.prototype_chunk,
        moments_dtype=args.moments_dtype,
    )
    mesh = meshes.make_mesh()
    validate(config, batch_shards=meshes.batch_shards(mesh))
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(build_init(config))
        layout = meshes.shardings(mesh, shapes)
        images = random_batch(args.batch, config.data.canvas_px)
        start = time.perf_counter()
        train_step = (
            jax.jit(
                build_train_step(config),
                in_shardings=(layout, meshes.batch_sharding(mesh)),
                out_shardings=(layout, meshes.replicated(mesh)),
                donate_argnums=0,
            )
            .lower(shapes, images)
            .compile()
        )
        compile_s = time.perf_counter() - start
        memory: dict[str, Any] = {"temp_mb": temporary_mb(train_step)}
        if not args.steps:
            print(json.dumps({**vars(args), **memory, "compile_s": compile_s}), flush=True)
            return

        state: Any = jax.jit(build_init(config), out_shardings=layout)()
        batch = jax.device_put(images, meshes.batch_sharding(mesh))

        def step() -> float:
            nonlocal state
            state, metrics = jax.block_until_ready(train_step(state, batch))
            return float(metrics["total_loss"])

        def figures(seconds: float) -> dict[str, Any]:
            """Of one device."""
            nonlocal state
            peak_mb = device_peak_mb()
            moved = 2 * size_of([leaf.addressable_data(0) for leaf in jax.tree.leaves(state)])
            state = None  # room for the arrays that measure the floor
            floor = measured_floor(args.dtype)
            work = Work(build_flops(config) / jax.device_count(), moved)
            mfu = work.flops / seconds / floor.flops
            return {"device_peak_mb": peak_mb, "mfu": mfu, **floor.figures(work, seconds)}

        measure.report(
            args,
            step,
            figures=figures,
            compile_s=compile_s,
            **memory,
            backend=jax.default_backend(),
            device=device_name(),
        )


if __name__ == "__main__":
    main()
