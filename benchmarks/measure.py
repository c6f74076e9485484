"""What the benchmarks share: flags, clocks, memory, tables and JSON lines. Imports no framework.

Memory is the high-water mark of the resident set as the kernel keeps it: `peak_rss_mb` of the whole
process (imports, compilation, initialisation), `rss_after_warmup_mb` of the timed steps alone.
"""

import argparse
import json
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPEATS, REPEAT_S = 7, 0.1
"""How often a call is timed, and how long each time: as many calls in a row as take so long."""
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def step_arguments(description: str | None) -> argparse.ArgumentParser:
    """Flags of a training-step benchmark."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="vits16")
    parser.add_argument("--depth", type=int, default=None, help="None: that of the preset")
    parser.add_argument("--global_px", type=int, default=112)
    parser.add_argument("--local_px", type=int, default=48)
    parser.add_argument("--local_crops", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--prototypes", type=int, default=4096)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=5, help="timed steps, after one to warm up")
    return parser


def peak_rss_mb() -> float:
    """Highest resident memory so far, or since `reset_peak`, in MiB."""
    if STATUS.exists():
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reset_peak() -> None:
    """Start the high-water mark again; where the system cannot, it stays that of the process."""
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return


def foreign_cpu_s() -> float:
    """CPU seconds that everything but this process has used, including a hypervisor's other guests.

    0 where the system does not tell. Its growth says whether a measurement was disturbed.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, soft_irq, steal = map(int, stat.read_text().split()[1:9])
    busy = (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - time.process_time()


def seconds_per_call(call: Callable[[], Any], wait: Callable[[Any], Any]) -> float:
    """Median time of a call, once it is compiled.

    `wait` takes what a call returns and comes back when the device is done with it. It is asked
    once per repeat, so that an asynchronous device is kept busy while the next call is dispatched.
    """
    wait(call())  # compiles
    start = time.perf_counter()
    wait(call())
    once = time.perf_counter() - start
    calls = min(max(math.ceil(REPEAT_S / once), 1), 1000)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(calls - 1):
            call()
        wait(call())
        seconds.append((time.perf_counter() - start) / calls)
    return statistics.median(seconds)


class Cases:
    """One row per case: of a Markdown table on stderr, and one JSON line on stdout.

    Printed as soon as it is known: what is interrupted has reported what it measured.
    """

    def __init__(self, *columns: str):
        self._columns = columns
        self._show(columns)
        self._show(["---"] * len(columns))

    def add(self, row: dict[str, Any]) -> None:
        """`row` may have more keys than there are columns, and fewer: nothing is known of those."""
        print(json.dumps(row), flush=True)
        self._show([_cell(row.get(column)) for column in self._columns])

    def _show(self, cells: Sequence[str]) -> None:
        print("|", " | ".join(cells), "|", file=sys.stderr, flush=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def report(
    args: argparse.Namespace,
    step: Callable[[], float],
    *,
    figures: Callable[[float], dict[str, Any]],
    compile_s: float,
    warmup: int = 1,
    **more: Any,
) -> None:
    """Time `step`, which returns the loss once all its work is done, and print table and JSON line.

    `figures` are asked for at the very end, for the seconds of a step: what they need has no part
    in memory and time.
    """
    for _ in range(warmup):
        step()
    peak = peak_rss_mb()
    reset_peak()
    cpu, foreign, begin = time.process_time(), foreign_cpu_s(), time.perf_counter()
    seconds, loss = [], 0.0
    for _ in range(args.steps):
        start = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - start)
    wall = time.perf_counter() - begin
    median, steps_peak = statistics.median(seconds), peak_rss_mb()
    result = {
        **vars(args),
        **more,
        "step_s": median,
        "fastest_step_s": min(seconds),
        "images_per_s": args.batch / median,
        "busy_cores": (time.process_time() - cpu) / wall,
        "foreign_cores": (foreign_cpu_s() - foreign) / wall,
        "compile_s": compile_s,
        "peak_rss_mb": max(peak, steps_peak),
        "rss_after_warmup_mb": steps_peak,
        "loss": loss,
        **figures(median),
    }
    sizes = ("preset", "global_px", "local_px", "batch", "prototypes", "dtype", "backend")
    speed = ("step_s", "images_per_s", "flops_per_s", "mfu", "floor_ms", "share_of_floor")
    Cases(*sizes, *speed).add(result)
