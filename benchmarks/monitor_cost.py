"""What share of a run its monitor takes, at the cadence of the recipe.

    python benchmarks/monitor_cost.py --config=configs/dinov3_vitl16_in1k.py
    python benchmarks/monitor_cost.py --config=configs/quickstart.py --measure

By matmul FLOPs; with `--measure` also by the clock, decoding included in the monitor and not in the
step. Prints one JSON object.
"""

import argparse
import json
import runpy
import statistics
import time
from typing import Any

import jax
import numpy as np
from train_step import random_batch

from dinojax import mesh as meshes
from dinojax.build import build_init
from dinojax.build_flops import build_flops
from dinojax.build_model import build_model
from dinojax.build_monitor import make_monitor
from dinojax.compiled_step import compile_step
from dinojax.config import Config, parse_config
from dinojax.models.flops import backbone_flops
from dinojax.training_data import open_data


def monitor_flops(config: Config) -> float:
    """Of one evaluation with labels: every image through teacher and student. Heads see 256 images
    and are left out, as are searches and spectra, which run on features alone."""
    backbone = build_model(config).backbone
    image = backbone_flops(backbone, config.knn.image_px, channels=config.student.in_chans)
    return 2 * (config.knn.max_bank + config.knn.max_queries) * image


def measure(config: Config, steps: int) -> dict[str, float]:
    mesh = meshes.make_mesh()
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(build_init(config))
        layout = meshes.shardings(mesh, shapes)
        wanted = jax.tree.map(
            lambda leaf, on: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on),
            *(shapes, layout),
        )
        state: Any = jax.jit(build_init(config), out_shardings=layout)()
        data = open_data(config)
        monitor = make_monitor(config, data.bank, data.queries)
        assert monitor is not None
        monitor(state)  # compiles, and scores the pixels
        start = time.perf_counter()
        scores = monitor(state)
        monitor_s = time.perf_counter() - start
        step = compile_step(config, mesh, wanted)
        batch = jax.device_put(
            random_batch(config.train.batch_size, config.data.canvas_px),
            meshes.batch_sharding(mesh),
        )
        seconds = []
        for _ in range(steps + 1):
            start = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, batch))
            seconds.append(time.perf_counter() - start)
    step_s = statistics.median(seconds[1:])
    share = monitor_s / (config.knn.every_steps * step_s)
    return {
        "scores": len(scores),
        "monitor_s": monitor_s,
        "step_s": step_s,
        "share_by_clock": share / (1 + share),
        "nan_scores": int(np.isnan(list(scores.values())).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="recipe, with its variant behind a colon")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--steps", type=int, default=5, help="timed steps")
    args = parser.parse_args()
    path, _, variant = args.config.partition(":")
    recipe = runpy.run_path(path)["get_config"]
    config = parse_config(recipe(variant) if variant else recipe())
    once, step = monitor_flops(config), build_flops(config)
    share = once / (config.knn.every_steps * step)
    found = {
        "config": args.config,
        "every_steps": config.knn.every_steps,
        "monitor_in_steps": once / step,
        "share_by_flops": share / (1 + share),
    }
    if args.measure:
        found |= measure(config, args.steps)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
