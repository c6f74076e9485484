"""Everything there is to measure on one GPU, item by item, in the order of their worth.

    python benchmarks/gpu.py --out=gpu                     # all items
    python benchmarks/gpu.py --out=gpu attention vitl      # some

Each case is a process of its own that ends with its JSON lines, kept in ``OUT/NAME.json`` as soon
as it is done; a case that has this file is not run again, so an interrupted item is taken up where
it was. What fails leaves ``OUT/NAME.failed.json`` with the rows until then, and is tried again.
No item takes longer than `--minutes`. PyTorch, timm and tokamax are peers where they are installed.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dinojax.runtime.atomic import replace_text

ROOT = Path(__file__).parents[1]
CHOICES = "dinojax/kernels/gpu_choices.json"
"""From which "auto" chooses; the attention item writes it, and steps that come after it read it."""
ENVIRONMENT = {
    # This table and no other, wherever else dinojax is installed.
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    "JAX_PLATFORMS": "cuda,cpu",
    # Of the tests, which otherwise compile for many CPU devices and in haste.
    "JAX_NUM_CPU_DEVICES": "1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
}
LEAST_S = 30
"""A case is not begun with less time left."""
TAIL = 4000
"""Characters of output that are kept of a case."""


class Case(NamedTuple):
    """A name for its files, and what follows ``python``."""

    name: str
    command: tuple[str, ...]


Chain = Sequence[Case]
"""Cases of which one is run only if those before it were done: ever larger batches."""


def script(case: str, name: str, *flags: str, **values: Any) -> Case:
    named = [f"--{key}={value}" for key, value in values.items()]
    return Case(case, (f"benchmarks/{name}.py", *flags, *named))


def tests(name: str, *selected: str) -> Case:
    options = ("-m", "slow or not slow", "-q", "-p", "no:cacheprovider")
    return Case(f"correctness-{name}", ("-m", "pytest", *selected, *options))


def correctness() -> Iterator[Chain]:
    """What one GPU computes, next to float64 and PyTorch: others are of CPUs, TPUs and meshes."""
    for backend in ("Flash", "Cudnn", "Reference", "FlashMma"):
        suite = f"tests/kernels/test_attention.py::Test{backend}"
        yield [tests(f"attention-{backend.lower()}", suite)]
    yield [tests("models", "tests/models/test_golden_vit.py")]


def attention() -> Iterator[Chain]:
    shapes = {"vitl": {"heads": 16, "head_dim": 64}, "7b": {"heads": 32, "head_dim": 128}}
    flags = {"rope": ("--rope", f"--write_choices={CHOICES}"), "plain": ()}
    lengths = (201, 41, 1029, 261, 54, 2309)
    for (kind, given), (width, sizes), tokens in itertools.product(
        flags.items(), shapes.items(), lengths
    ):
        peers = "cudnn,tokamax,torch"
        name = f"attention-{width}-{kind}-{tokens}"
        yield [script(name, "attention", *given, **sizes, lengths=tokens, peers=peers)]


IN1K = {"global_px": 224, "local_px": 96, "prototypes": 65536, "dtype": "bfloat16", "steps": 10}
"""2x224 + 8x96 crops."""
CONTENDERS = {
    "ours": ("train_step",),
    "torch": ("torch_step", "--compile"),
    "eager": ("torch_step",),
}


def step(contender: str, preset: str, batch: int, *flags: str, **more: Any) -> Case:
    name, *own = CONTENDERS[contender]
    sizes = {**IN1K, "preset": preset, "batch": batch, **more}
    return script(f"step-{preset}-{batch}-{contender}", name, *own, *flags, **sizes)


def vitl() -> Iterator[Chain]:
    for contender in CONTENDERS:
        yield [step(contender, "vitl16", 64)]


def largest() -> Iterator[Chain]:
    for contender in ("ours", "torch"):
        yield [step(contender, "vitl16", batch) for batch in range(80, 321, 16)]


def rest() -> Iterator[Chain]:
    for preset, batch in (("vitb16", 64), ("vits16", 128)):
        for contender in ("ours", "torch"):
            yield [step(contender, preset, batch)]
    for depth in (2, 4):  # the difference is the time of two layers
        case = step("ours", "vit7b16", 16, depth=depth)
        yield [case._replace(name=f"{case.name}-{depth}-layers")]
    for preset in ("vitl16", "vitb16", "vits16"):
        sizes = {"preset": preset, "batch": 64, "dtype": "bfloat16", "peer": "timm"}
        yield [script(f"forward-{preset}", "forward", "--compile", **sizes)]


ITEMS = {
    "correctness": correctness,
    "attention": attention,
    "vitl": vitl,
    "largest": largest,
    "rest": rest,
}


def json_rows(output: str) -> list[Any]:
    """The JSON objects among the lines."""
    rows = []
    for line in output.splitlines():
        if line.startswith("{"):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # cut off
    return rows


def run_case(case: Case, out: Path, deadline: float) -> bool:
    """Whether the case is done, now or earlier."""
    done, failed = out / f"{case.name}.json", out / f"{case.name}.failed.json"
    if done.exists():
        return True
    start = time.monotonic()
    if deadline - start < LEAST_S:
        print(f"{case.name}: no time left", flush=True)
        return False
    with (out / f"{case.name}.log").open("w+") as log:
        try:
            code = subprocess.run(
                [sys.executable, *case.command],
                cwd=ROOT,
                env={**os.environ, **ENVIRONMENT},
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=deadline - start,
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
        log.seek(0)
        output = log.read()
    seconds, ok = time.monotonic() - start, code == 0
    result = {
        **case._asdict(),
        "returncode": code,
        "seconds": seconds,
        "rows": json_rows(output),
        "tail": output[-TAIL:],
    }
    replace_text(done if ok else failed, json.dumps(result, indent=1) + "\n")
    if ok:
        failed.unlink(missing_ok=True)
    print(f"{case.name}: {'done' if ok else 'failed'} in {seconds:.0f} s", flush=True)
    return ok


def run_item(chains: Iterator[Chain], out: Path, seconds: float) -> None:
    """Every chain, each up to its first failure, for at most so many seconds."""
    deadline = time.monotonic() + seconds
    for chain in chains:
        for case in chain:
            if not run_case(case, out, deadline):
                break


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("items", nargs="*", default=list(ITEMS), help=f"of {', '.join(ITEMS)}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=7.5, help="for each item")
    args = parser.parse_args()
    for name in args.items:
        if name not in ITEMS:
            parser.error(f"item {name!r} is unknown; use some of {', '.join(ITEMS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.items:
        run_item(ITEMS[name](), args.out, args.minutes * 60)


if __name__ == "__main__":
    main()
