"""Continuing from a backbone without heads: head recovery against the naive way.

    python benchmarks/head_recovery.py --source=runs/x/snapshots/400 --workdir=runs/recovery \
        --config=configs/quickstart.py --steps=240 -- --config.knn.every_steps=20

For each seed three runs of the training app, which take up where they were if they exist: one with
head recovery, then two naive ones that train all of the new model from the first step on. The first
of these warms its learning rate up for as long as it takes the other run to give the backbone its
full rate, so it has as many steps. The second has the short warm-up of the unfrozen backbone alone.
All have as many steps at full rate in the backbone. What comes after ``--`` goes to all of them.
Prints a table in Markdown: kNN of the EMA teacher, and how far its backbone has moved.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from orbax.checkpoint import v1 as ocp

from dinojax.runtime.metrics import FILE

RUNS = ("recovery", "long_warmup", "short_warmup")


def train(
    options: argparse.Namespace, name: str, seed: int, steps: int, flags: list[str]
) -> list[dict]:
    """The metrics of a run, which is started unless it is finished."""
    workdir = Path(options.workdir) / f"{name}_{seed}"
    if not (workdir / "summary.json").exists():
        constant = f"--config.optim.lr.end={options.lr}"
        subprocess.run(
            [
                *(sys.executable, "-m", "dinojax.train", f"--config={options.config}"),
                *(f"--workdir={workdir}", f"--config.init.from={options.source}"),
                *(f"--config.train.steps={steps}", f"--config.train.seed={seed}"),
                *(f"--config.optim.lr.peak={options.lr}", constant, *flags, *options.flags),
            ],
            check=True,
        )
    return [json.loads(line) for line in (workdir / FILE).read_text().splitlines()]


def distance(options: argparse.Namespace, name: str, seed: int, steps: int) -> float:
    """Of the EMA teacher's backbone from the source, relative to the norm of the source."""
    last = Path(options.workdir) / f"{name}_{seed}" / "checkpoints" / str(steps)
    before, after = (backbone(path) for path in (Path(options.source), last))
    moved = sum(np.square(after[key] - before[key]).sum() for key in before)
    return float(np.sqrt(moved / sum(np.square(x).sum() for x in before.values())))


def backbone(path: Path) -> dict[str, np.ndarray]:
    def leaves(prefix: str, node: Any) -> dict[str, np.ndarray]:
        if not isinstance(node, dict):
            return {prefix: np.asarray(node)}
        return {k: v for name, x in node.items() for k, v in leaves(f"{prefix}/{name}", x).items()}

    loaded: Any = ocp.load(str(path.absolute()), checkpointable_name="state")
    return leaves("", loaded["teacher"]["backbone"])


def row(options: argparse.Namespace, name: str, seed: int, lines: list[dict]) -> dict[str, Any]:
    scores = [line["knn"] for line in lines if "knn" in line]
    return {
        "run": name,
        "seed": seed,
        "knn": [round(score, 4) for score in scores],
        "start": scores[0],
        "lowest": min(scores),
        "final": scores[-1],
        "moved": distance(options, name, seed, lines[-1]["step"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max_steps", type=int, default=100)
    parser.add_argument("--warmup_steps", type=int, default=20)
    parser.add_argument("flags", nargs="*")
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        gate = {"max_steps": options.max_steps, "warmup_steps": options.warmup_steps}
        flags = [f"--config.recovery.{key}={value}" for key, value in gate.items()]
        lines = train(options, "recovery", seed, options.steps, flags)
        opened = max(int(line.get("recovery_opened_at", -1)) for line in lines)
        full = opened + options.warmup_steps
        rows.append(row(options, "recovery", seed, lines) | {"opened": opened, "full_from": full})
        for name, warmup in (("long_warmup", full), ("short_warmup", options.warmup_steps)):
            steps = options.steps - full + warmup
            lines = train(options, name, seed, steps, [f"--config.optim.lr.warmup_steps={warmup}"])
            rows.append(row(options, name, seed, lines) | {"opened": 0, "full_from": warmup})
    print(
        "| run | seed | backbone trained from | full rate from | start | lowest | final | moved |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for one in rows:
        print(
            f"| {one['run']} | {one['seed']} | {one['opened']} | {one['full_from']} | "
            f"{one['start']:.3f} | {one['lowest']:.3f} | {one['final']:.3f} | {one['moved']:.1%} |"
        )
    for name in RUNS:
        dips = [one["start"] - one["lowest"] for one in rows if one["run"] == name]
        finals = [one["final"] for one in rows if one["run"] == name]
        print(f"{name}: mean dip {np.mean(dips):.4f}, mean final {np.mean(finals):.4f}")
    (Path(options.workdir) / "head_recovery.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
