"""What share of a run its monitor takes, at the cadence of the recipe.

    python benchmarks/monitor_cost.py --config=configs/dinov3_vitl16_in1k.py
    python benchmarks/monitor_cost.py --config=configs/quickstart.py --measure
    python benchmarks/monitor_cost.py --config=configs/quickstart.py --norms

By matmul FLOPs; with `--measure` also by the clock, decoding included in the monitor and not in the
step; with `--norms` the step with its update norms against the step without them, in turn. Seconds
of processor time stand beside those of the clock: on CPU they do not depend on what else runs.
Prints one JSON object.
"""

import argparse
import json
import runpy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from train_step import random_batch

from dinojax import mesh as meshes
from dinojax.build.flops import build_flops
from dinojax.build.model import build_model
from dinojax.build.monitor import make_monitor
from dinojax.build.step import build_init
from dinojax.config import Config, parse_config
from dinojax.models.flops import backbone_flops
from dinojax.ssl import step as ssl_step
from dinojax.training.compiled_step import compile_step
from dinojax.training.data import open_data

STEPS = 5


def monitor_flops(config: Config) -> float:
    """Of one evaluation with labels: every image through teacher and student. Heads see 256 images
    and are left out, as are searches and spectra, which run on features alone."""
    backbone = build_model(config).backbone
    image = backbone_flops(backbone, config.knn.image_px, channels=config.student.in_chans)
    return 2 * (config.knn.max_bank + config.knn.max_queries) * image


class Clock(NamedTuple):
    """Seconds of a call."""

    wall: float
    processor: float
    """Of all threads; of a device that is not the CPU little."""


def timed(call: Callable[[], Any]) -> tuple[Any, Clock]:
    wall, processor = time.perf_counter(), time.process_time()
    found = jax.block_until_ready(call())
    return found, Clock(time.perf_counter() - wall, time.process_time() - processor)


class Bench:
    """One recipe on all devices."""

    def __init__(self, config: Config):
        self.config, self.mesh = config, meshes.make_mesh()
        shapes = jax.eval_shape(build_init(config))
        self._layout = meshes.shardings(self.mesh, shapes)
        self._wanted = jax.tree.map(
            lambda leaf, on: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on),
            *(shapes, self._layout),
        )
        self._batch = jax.device_put(
            random_batch(config.train.batch_size, config.data.canvas_px),
            meshes.batch_sharding(self.mesh),
        )

    def state(self) -> Any:
        return jax.jit(build_init(self.config), out_shardings=self._layout)()

    def step(self) -> Callable[[Any], Any]:
        """``state -> state``, compiled and warm."""
        compiled = compile_step(self.config, self.mesh, self._wanted)
        compiled(self.state(), self._batch)
        return lambda state: compiled(state, self._batch)[0]


def median(clocks: Sequence[Clock]) -> Clock:
    return Clock(*(statistics.median(part) for part in zip(*clocks, strict=True)))


def measure(bench: Bench, repeats: int) -> dict[str, float]:
    """An evaluation and a step in turn, the medians of each."""
    data = open_data(bench.config)
    monitor = make_monitor(bench.config, data.bank, data.queries)
    assert monitor is not None
    step, state = bench.step(), bench.state()
    monitor(state)  # compiles, and scores the pixels
    scores, evaluations, steps = {}, [], []
    for _ in range(repeats):
        scores, clock = timed(lambda given=state: monitor(given))
        evaluations.append(clock)
        for _ in range(STEPS):
            state, clock = timed(lambda given=state: step(given))
            steps.append(clock)
    found: dict[str, float] = {"scores": len(scores)}
    for name, one, other in zip(Clock._fields, median(evaluations), median(steps), strict=True):
        share = one / (bench.config.knn.every_steps * other)
        found |= {f"monitor_{name}_s": one, f"step_{name}_s": other}
        found |= {f"share_by_{name}": share / (1 + share)}
    return {**found, "nan_scores": int(np.isnan(list(scores.values())).sum())}


def measure_norms(bench: Bench, repeats: int) -> dict[str, float]:
    """What update norms add to a step, as a share of it: the median over pairs."""
    step, state = bench.step(), bench.state()
    with mock.patch.object(ssl_step, "update_ratios", lambda *_: {}):
        plain = bench.step()
    pairs = []
    for _ in range(repeats * STEPS):
        state, one = timed(lambda given=state: step(given))
        state, other = timed(lambda given=state: plain(given))
        pairs.append([a / b - 1 for a, b in zip(one, other, strict=True)])
    return {
        f"norms_by_{name}": statistics.median(column)
        for name, column in zip(Clock._fields, zip(*pairs, strict=True), strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="recipe, with its variant behind a colon")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--norms", action="store_true")
    parser.add_argument(
        "--repeats", type=int, default=3, help=f"times an evaluation, {STEPS} steps"
    )
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
    bench = Bench(config) if args.measure or args.norms else None
    if bench is not None:
        with jax.set_mesh(bench.mesh):
            found |= measure(bench, args.repeats) if args.measure else {}
            found |= measure_norms(bench, args.repeats) if args.norms else {}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
