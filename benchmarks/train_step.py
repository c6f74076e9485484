"""Speed and memory of the real train step, for any preset, crops, prototypes, dtype and batch.

    python benchmarks/train_step.py --preset=vits16 --global_px=112 --local_px=48 --local_crops=8 \
        --batch=4 --prototypes=4096 --dtype=float32 --steps=5

The last line is one JSON object. Views are part of the step; decoding is not.
"""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from dinojax import mesh as meshes
from dinojax.build import build_flops, build_init, build_train_step
from dinojax.config import default_config, parse_config
from dinojax.validation import validate


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="vits16")
    parser.add_argument("--global_px", type=int, default=112)
    parser.add_argument("--local_px", type=int, default=48)
    parser.add_argument("--local_crops", type=int, default=8)
    parser.add_argument("--canvas_px", type=int, default=160)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--prototypes", type=int, default=4096)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--remat", default="dots")
    parser.add_argument("--drop_path_rate", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=5)
    return parser.parse_args()


def rss_mb() -> float:
    """Resident memory of this process now, in MiB (0 where the system does not tell)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    line = next(x for x in status.read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    args = arguments()
    config = default_config()
    config.student.arch = args.preset
    config.student.remat = args.remat
    config.student.drop_path_rate = args.drop_path_rate
    config.crops.global_crops_size = args.global_px
    config.crops.local_crops_size = args.local_px
    config.crops.local_crops_number = args.local_crops
    config.dino.head.n_prototypes = config.ibot.head.n_prototypes = args.prototypes
    config.train.batch_size = args.batch
    config.train.draw_group_size = max(args.batch // jax.device_count(), 1)
    config.dino.koleo_group_size = args.batch
    config.train.precision = args.dtype
    config.data.canvas_px = args.canvas_px
    config.knn.every_steps = 0
    config = parse_config(config)

    mesh = meshes.make_mesh()
    validate(config, batch_shards=meshes.batch_shards(mesh))
    rng = np.random.default_rng(0)
    side = args.canvas_px
    batch = {
        "canvas": rng.integers(0, 256, (args.batch, side, side, 3), np.uint8),
        "size": np.full((args.batch, 2), side, np.int32),
    }
    with jax.set_mesh(mesh):
        layout = meshes.shardings(mesh, jax.eval_shape(build_init(config)))
        state = jax.jit(build_init(config), out_shardings=layout)()
        batch = jax.device_put(batch, meshes.batch_sharding(mesh))
        step = jax.jit(
            build_train_step(config),
            in_shardings=(layout, meshes.batch_sharding(mesh)),
            out_shardings=(layout, meshes.replicated(mesh)),
            donate_argnums=0,
        )
        start = time.perf_counter()
        step = step.lower(state, batch).compile()
        compile_s = time.perf_counter() - start
        state, metrics = jax.block_until_ready(step(state, batch))  # warm-up
        warm_mb = rss_mb()
        seconds = []
        for _ in range(args.steps):
            start = time.perf_counter()
            state, metrics = jax.block_until_ready(step(state, batch))
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    result = {
        **vars(args),
        "backend": jax.default_backend(),
        "devices": jax.device_count(),
        "step_s": median,
        "images_per_s": args.batch / median,
        "gflops_per_s": float(build_flops(config)) / median / 1e9,
        "compile_s": compile_s,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rss_after_warmup_mb": warm_mb,
        "loss": float(metrics["total_loss"]),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
