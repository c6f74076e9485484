"""The stage ``mix``: selections and whole sources to the data of a training run.

``data.flags`` has the keys of ``data`` that say it, for ``python -m dinojax.train --config=RECIPE
--flagfile=WORKDIR/mix/data.flags``; flags that come after it win. ``report.json`` says how often a
run would see each record. Which record lies behind which step: `dinojax.data.order`.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinojax.curation.named import Named, check_names
from dinojax.curation.progress_bar import progress_bar, tracked
from dinojax.curation.stage_folder import INPUTS, claim, finish, read_report
from dinojax.data.check import fingerprint
from dinojax.data.open import open_source
from dinojax.data.order import Order
from dinojax.data.source import Source
from dinojax.runtime.atomic import replace_text

FLAGS, LIST = "data.flags", "ids:"


@dataclass(frozen=True)
class MixOptions:
    """A mixture (`dinojax.data.order`), and the homogeneous batches of arXiv:2508.10104."""

    parts: Named = ()
    """(name, source) pairs, sources as in data.mixture; ids:FILE:SPEC takes what FILE lists."""
    weights: tuple[float, ...] = ()
    """Of the parts in mixed steps, in any unit; 0 is for the homogeneous part alone. Empty: the
    numbers of their records, copies included, and 0 for the homogeneous part."""
    homogeneous: str | None = None
    """Name of the part from which homogeneous steps take their whole batch. None: all are mixed."""
    homogeneous_share: float = 0.1
    """Share of the steps that are homogeneous, if a part is."""
    steps: int = 1000
    """Of a run, for the report alone: how often it sees each record."""
    batch_size: int = 2048
    """Of that run."""


def mix_stage(options: MixOptions, folder: Path) -> dict[str, Any]:
    """The report.

    Raises:
        ValueError or FileNotFoundError: options that do not fit, ids that a source does not have, a
            list of a stage that is not finished or has changed since, or a folder of other inputs.
    """
    start = time.perf_counter()
    _check(options)
    lists = {name: [_checked(file) for file in lists_of(spec)] for name, spec in options.parts}
    sources = {name: open_source(spec) for name, spec in options.parts}
    order = _order(options, {name: len(source) for name, source in sources.items()})
    with progress_bar("mix", len(sources), "parts") as bar:
        records = {
            name: fingerprint(source).digest for name, source in tracked(sources.items(), bar)
        }
    specs = [spec for _, spec in options.parts]
    report = claim(folder, _inputs(options, order, records))
    if report is not None:
        return report
    seen = dict(zip(sources, order.counts(options.steps), strict=True))
    found = {
        "steps": options.steps,
        "batch_size": options.batch_size,
        "homogeneous_share": order.homogeneous_share,
        "parts": {
            name: _part(source, weight, seen[name], options.steps * options.batch_size)
            | {"lists": lists[name]}
            for (name, source), weight in zip(sources.items(), order.weights, strict=True)
        },
        "seconds": {"all": time.perf_counter() - start},
    }
    path = folder / FLAGS
    replace_text(path, flags_of(specs, order))
    return finish(folder, found, [path])


def lists_of(spec: str) -> Iterator[Path]:
    """The files of ids that a source goes through."""
    while spec.startswith(LIST):
        file, _, spec = spec.removeprefix(LIST).partition(":")
        yield Path(file)


def flags_of(specs: list[str], order: Order) -> str:
    """The lines of ``data.flags``."""
    mixture = tuple(zip(specs, order.weights, strict=True))
    keys: dict[str, Any] = {"source": "scenes", "mixture": mixture}
    if order.homogeneous_part is not None:
        keys["homogeneous_source"] = specs[order.homogeneous_part]
        keys["homogeneous_share"] = order.homogeneous_share
    lines = [f"--config.data.{key}={value}" for key, value in keys.items()]
    about = "# After --config. data.source is back at its default: data.mixture takes its place."
    return "\n".join([about, *lines, ""])


def _check(options: MixOptions) -> None:
    """What `Order` does not know of."""
    check_names(options.parts, "mix.parts")
    names, specs = zip(*options.parts, strict=True)
    twice = [spec for place, spec in enumerate(specs) if spec in specs[:place]]
    if twice:
        raise ValueError(
            f"mix.parts has the source {twice[0]!r} twice; give it once, of the weights the sum"
        )
    if options.weights and len(options.weights) != len(names):
        raise ValueError(
            f"mix.weights={options.weights} must have one for each of mix.parts={names}; leave it "
            "empty for the numbers of their records"
        )
    if options.homogeneous is not None and options.homogeneous not in names:
        raise ValueError(
            f"mix.homogeneous={options.homogeneous!r} is not in mix.parts; use one of {names}"
        )
    for name in ("steps", "batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"mix.{name}={getattr(options, name)} must be at least 1; use 1000")


def _checked(file: Path) -> str | None:
    """The fingerprint of the stage that has written a list; None: it is of none."""
    if not (file.parent / INPUTS).exists():
        return None
    report = read_report(file.parent)
    if file.name not in report["outputs"]:
        raise ValueError(
            f"mix.parts: {file} is no table of its stage; use one of {sorted(report['outputs'])}"
        )
    return report["fingerprint"]


def _order(options: MixOptions, sizes: dict[str, int]) -> Order:
    names = list(sizes)
    part = None if options.homogeneous is None else names.index(options.homogeneous)
    counted = tuple(float(sizes[n]) if n != options.homogeneous else 0.0 for n in names)
    try:
        return Order(
            sizes=tuple(sizes.values()),
            global_batch=options.batch_size,
            seed=0,  # of counts it matters for none but the last few
            weights=options.weights or counted,
            homogeneous_part=part,
            homogeneous_share=0.0 if part is None else options.homogeneous_share,
        )
    except ValueError as error:
        raise ValueError(f"mix of {names}: {error}") from None


def _inputs(options: MixOptions, order: Order, records: dict[str, str]) -> dict[str, Any]:
    """With the paths: they are in ``data.flags``."""
    parts = {f"part {name}": [spec, records[name]] for name, spec in options.parts}
    names = ("homogeneous", "steps", "batch_size")
    return {
        "parts": list(records),
        **parts,
        "weights": order.weights,
        "homogeneous_share": order.homogeneous_share,
        **{name: getattr(options, name) for name in names},
    }


def _part(source: Source, weight: float, seen: int, images: int) -> dict[str, Any]:
    """Of one part: what it holds, and what a run takes of it."""
    times = Counter(source.record_id(index) for index in range(len(source)))
    return {
        "records": len(times),
        "copies": len(source),
        "weight": weight,
        "share": seen / images,
        "seen": {"mean": seen / len(times), "most": max(times.values()) * seen / len(source)},
    }
