"""Our train step against the PyTorch one on this machine: interleaved runs, one process each.

    python benchmarks/compare_cpu.py [--pairs=3] [--settings=112-4096,224-65536] [--compile]

Prints every run to stderr, one line per setting with medians and ratios (ours / theirs: speed wants
at least 1, memory at most 1.15), and ends with one JSON line. Per setting, one run of ours first
fills the compilation cache and gives the cold figures. A run during which other processes used more
than `--foreign` of a core is repeated, up to `--tries` times: two OpenMP threads that share a core
with something else wait for each other, and PyTorch's figure drops tenfold.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SETTINGS = {
    f"{global_px}-{prototypes}": {
        "global_px": global_px,
        "local_px": local_px,
        "prototypes": prototypes,
        "steps": steps,
    }
    for prototypes in (4096, 65536)
    for global_px, local_px, steps in ((112, 48, 8), (224, 96, 4))
}
FIGURES = (
    "images_per_s",
    "flops_per_s",
    "fastest_step_s",
    "rss_after_warmup_mb",
    "peak_rss_mb",
    "compile_s",
)

Result = dict[str, Any]


def run(script: str, *flags: str, **values: Any) -> Result:
    """The JSON line of one benchmark run in a process of its own."""
    named = [f"--{name}={value}" for name, value in values.items()]
    done = subprocess.run(
        [sys.executable, str(HERE / script), *flags, *named], stdout=subprocess.PIPE, check=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    print(
        f"  {script} {' '.join((*flags, *named))}: {result['images_per_s']:.2f} img/s "
        f"(fastest step {result['fastest_step_s']:.3f} s), "
        f"{result['rss_after_warmup_mb']:.0f} MiB, others {result['foreign_cores']:.2f} cores",
        file=sys.stderr,
        flush=True,
    )
    return result


def undisturbed(args: argparse.Namespace, script: str, *flags: str, **values: Any) -> Result:
    """The first run that had the machine to itself, or else the least disturbed one."""
    results: list[Result] = []
    while len(results) < args.tries:
        if results:
            time.sleep(args.wait)
        results.append(run(script, *flags, **values))
        if results[-1]["foreign_cores"] <= args.foreign:
            break
    return min(results, key=lambda r: r["foreign_cores"])


def medians(results: list[Result]) -> Result:
    figures = {name: statistics.median(r[name] for r in results) for name in FIGURES}
    return figures | {"foreign_cores": max(r["foreign_cores"] for r in results)}


def compare(args: argparse.Namespace, setting: Result, cache_dir: str) -> Result:
    """Medians of one setting, each contender's runs spread over the whole time."""
    contenders = {
        "ours": ("train_step.py", [f"--cache_dir={cache_dir}"]),
        "eager": ("torch_step.py", []),
    }
    if args.compile:
        contenders["compiled"] = ("torch_step.py", ["--compile"])
    cold = run("train_step.py", f"--cache_dir={cache_dir}", **setting | {"steps": 1})
    runs: dict[str, list[Result]] = {name: [] for name in contenders}
    for _ in range(args.pairs):
        for name, (script, flags) in contenders.items():
            runs[name].append(undisturbed(args, script, *flags, **setting))
    figures = {name: medians(results) for name, results in runs.items()}
    ours, eager = figures["ours"], figures["eager"]
    return {
        **figures,
        "cold": {name: cold[name] for name in ("peak_rss_mb", "compile_s")},
        "speed_ratio": ours["images_per_s"] / eager["images_per_s"],
        "pair_ratios": [
            a["images_per_s"] / b["images_per_s"]
            for a, b in zip(runs["ours"], runs["eager"], strict=True)
        ],
        "memory_ratio": ours["rss_after_warmup_mb"] / eager["peak_rss_mb"],
        "peak_ratio": ours["peak_rss_mb"] / eager["peak_rss_mb"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--settings", default=",".join(SETTINGS), help="global_px-prototypes")
    parser.add_argument("--compile", action="store_true", help="also run the compiled PyTorch step")
    parser.add_argument("--foreign", type=float, default=0.15, help="tolerated cores of others")
    parser.add_argument("--tries", type=int, default=4)
    parser.add_argument("--wait", type=float, default=10, help="seconds before another try")
    args = parser.parse_args()
    report: dict[str, Result] = {}
    for name in args.settings.split(","):
        with tempfile.TemporaryDirectory() as cache_dir:
            result = report[name] = compare(args, SETTINGS[name], cache_dir)
        contenders = [f"{k} {result[k]['images_per_s']:.2f}" for k in ("ours", "eager", "compiled")
                      if k in result]  # fmt: skip
        print(
            f"{name}: img/s {', '.join(contenders)}; speed {result['speed_ratio']:.2f}x eager, "
            f"memory {result['memory_ratio']:.2f}x",
            flush=True,
        )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
