"""Does the guardian see a broken run before its features are lost, and leave healthy runs alone?

    python benchmarks/guardian.py --source=runs/small --out=guardian.jsonl

goes on from a trained run of `configs/quickstart.py:distilled` (or `:small`) with and without
sabotage, writes what each run said about itself as one line of JSON, and prints a table. Runs that
are in the file are not done again; `--report` only prints. Limits are fixed on the runs with even
seeds and reported on those with odd ones: lead is how many steps the first alarm comes before kNN
falls 20 % below its peak.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import runpy
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from dinojax import train as app
from dinojax.build import inputs as build_inputs
from dinojax.build import loss as build_loss
from dinojax.build.monitor import Monitor, make_monitor
from dinojax.config import parse_config
from dinojax.data.records import Record
from dinojax.data.source import Source
from dinojax.losses.centering import softmax_center
from dinojax.runtime.alarms import RULES, History, Rule, alarms
from dinojax.ssl.objective import Targets
from dinojax.training import data as training_data

STEPS, EVERY = 120, 10
_SCENES = training_data._scenes
QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.py"
FALL = 0.8
"""Of its peak: where kNN has fallen."""
MARGIN = 0.1
FITTED = ("rank_collapse", "features_alike", "prototype_collapse", "uniform_targets", "dense_decay")
FITTED = (*FITTED, "worse_features", "large_updates")
"""Rules whose limits depend on what healthy runs look like; the others say what is wrong in itself.
"""


class Images:
    """A source that keeps its records, changed or not."""

    def __init__(self, source: Source, change: Callable[[int, Record], Record]):
        self._source, self._change = source, change
        self._kept: dict[int, Record] = {}

    @property
    def class_names(self) -> list[str] | None:
        return self._source.class_names

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        if index not in self._kept:
            self._kept[index] = self._change(index, self._source[index])
        return self._kept[index]

    def record_id(self, index: int) -> str:
        return self._source.record_id(index)


def one_colour(index: int, record: Record) -> Record:
    image = np.asarray(record.image)
    flat = np.full_like(image, image.mean(axis=(0, 1)).astype(np.uint8))
    return dataclasses.replace(record, image=flat)


def any_label(index: int, record: Record) -> Record:
    return dataclasses.replace(record, label=int(np.random.default_rng(index).integers(10)))


def trained(source: str) -> Any:
    """The small student of the quickstart, trained before, watched often."""
    config = runpy.run_path(str(QUICKSTART))["get_config"]("small")
    config.init["from"] = source
    config.train.steps, config.train.log_every_steps = STEPS, 1
    config.optim.teacher_temp.start, config.optim.teacher_temp.warmup_steps = 0.02, 0
    config.optim.lr.peak = config.optim.lr.end = 2e-3
    config.optim.momentum.end = config.optim.momentum.peak
    config.data.scenes.num_images, config.data.holdout = 2048, 0.25
    config.knn.update({"every_steps": EVERY, "max_bank": 512, "max_queries": 512})
    config.checkpoint.every_steps = STEPS
    return config


def set_all(schedule: Any, value: float) -> None:
    schedule.start = schedule.peak = schedule.end = value


def uncentred(teacher, temperature, centers):
    logits = teacher.cls_logits, teacher.patch_logits
    return Targets(*(softmax_center(x, 0 * x[0, 0], temperature) for x in logits)), centers


def shown_masks(original: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return original(*args, **{**options, "hide_masked": False})


def student_for_teacher(config: Any, bank: Source, held_out: Source) -> Monitor:
    monitor = make_monitor(config, bank, held_out)
    assert monitor is not None
    return lambda state: monitor(state._replace(teacher=state.student))


def mislabelled(config: Any, bank: Source, held_out: Source) -> Monitor | None:
    return make_monitor(config, Images(bank, any_label), Images(held_out, any_label))


class Sabotage(NamedTuple):
    """What is done to a run."""

    configure: Callable[[Any], Any] = lambda config: None
    patches: Callable[[], Sequence[Any]] = lambda: ()
    image: Callable[[int, Record], Record] = lambda index, record: record


SABOTAGES = {
    "healthy": Sabotage(),
    "no centering": Sabotage(
        lambda c: c.train.update({"centering": "softmax"}),
        lambda: [mock.patch.dict(build_loss.CENTERINGS, {"softmax": uncentred})],
    ),
    "hot teacher": Sabotage(lambda c: set_all(c.optim.teacher_temp, 1.0)),
    "lr x 30": Sabotage(lambda c: c.optim.lr.update({"peak": 30 * c.optim.lr.peak})),
    "constant images": Sabotage(image=one_colour),
    "momentum 0": Sabotage(lambda c: set_all(c.optim.momentum, 0.0)),
    "masks off": Sabotage(
        patches=lambda: [
            mock.patch.object(
                build_inputs,
                "make_step_views",
                functools.partial(shown_masks, build_inputs.make_step_views),
            )
        ]
    ),
    "monitor: teacher = student": Sabotage(
        patches=lambda: [mock.patch.object(app, "make_monitor", student_for_teacher)]
    ),
    "monitor: wrong labels": Sabotage(
        patches=lambda: [mock.patch.object(app, "make_monitor", mislabelled)]
    ),
}


@functools.cache
def scenes(*args: Any) -> Source:
    """Drawn once for all runs."""
    return Images(_SCENES(*args), lambda index, record: record)


def run(name: str, seed: int, source: str) -> dict[str, Any]:
    """Train once; everything that the run said about itself."""
    sabotage, config, begin = SABOTAGES[name], trained(source), time.perf_counter()
    config.train.seed = seed
    sabotage.configure(config)

    def kept(*args: Any) -> Source:
        return Images(scenes(*args), sabotage.image)

    with contextlib.ExitStack() as stack:
        workdir = stack.enter_context(tempfile.TemporaryDirectory())
        for patch in (mock.patch.object(training_data, "_scenes", kept), *sabotage.patches()):
            stack.enter_context(patch)
        app.train(parse_config(config), workdir)
        text = (Path(workdir) / "metrics.jsonl").read_text()
    jax.clear_caches()  # a patched function must not find what was traced without the patch
    lines = [json.loads(line) for line in text.splitlines()]
    evaluations = [line for line in lines if "knn" in line]
    steps = [line for line in lines if "images_per_s" in line]  # not the first, which nobody judges
    seconds = time.perf_counter() - begin
    return {
        "sabotage": name,
        "seed": seed,
        "seconds": round(seconds, 1),
        "evaluations": evaluations,
        "steps": steps,
    }


def prefixes(line: Mapping[str, Any]) -> list[History]:
    """What the guardian saw at each logged step and at each evaluation, in the order of a run."""
    evaluations = [(one["step"], one) for one in line["evaluations"]]
    steps = [(one["step"], one) for one in line["steps"]]
    found = []
    for at in sorted({step for step, _ in (*evaluations, *steps)}):
        seen = [one for one in evaluations if one[0] <= at]
        found.append(History(seen, [one for one in steps if one[0] <= at]))
    return found


def extreme(rule: Rule, line: Mapping[str, Any]) -> float | None:
    """What comes nearest to an alarm in a whole run."""
    values = [value for one in prefixes(line) if (value := rule.statistic(one)) is not None]
    return (max if rule.above else min)(values, default=None)


def fit_limits(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Halfway, in the logarithm, from the worst healthy run to the middle of the runs beyond it.

    A rule that no broken run sets off keeps its limit. None is nearer than `MARGIN` to a healthy
    run.
    """
    limits = {}
    for name in FITTED:
        rule = RULES[name]
        worse = max if rule.above else min
        found = [(line["sabotage"] == "healthy", extreme(rule, line)) for line in lines]
        healthy = [value for well, value in found if well and value is not None]
        broken = [value for well, value in found if not well and value is not None]
        if not healthy:
            continue
        edge = worse(healthy)
        beyond = [value for value in broken if value != edge and worse(value, edge) == value]
        limit = rule.limit
        if beyond:
            middle = max(statistics.median(beyond), 1e-9)
            limit = math.exp((math.log(max(edge, 1e-9)) + math.log(middle)) / 2)
        near = edge * (1 + MARGIN if rule.above else 1 - MARGIN)
        limits[name] = float(f"{worse(limit, near):.3g}")
    return limits


def knn_falls(line: Mapping[str, Any]) -> int | None:
    """The first evaluation with kNN below `FALL` of its peak so far."""
    peak = 0.0
    for one in line["evaluations"]:
        knn = one["knn"] or 0.0
        peak = max(peak, knn)
        if knn < FALL * peak:
            return one["step"]
    return None


def first_alarms(line: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, int]:
    """The step of the first alarm of each name."""
    found: dict[str, int] = {}
    for history in prefixes(line):
        for alarm in alarms(history, limits):
            found.setdefault(alarm.name, alarm.step)
    return found


def report(lines: Sequence[Mapping[str, Any]]) -> str:
    limits = fit_limits([line for line in lines if line["seed"] % 2 == 0])
    tested = [line for line in lines if line["seed"] % 2]
    return "\n".join(
        (
            f"Limits from the even seeds: {json.dumps(limits)}; the odd ones under these:",
            *("", *table(tested, limits), "", "All seeds under the limits as they are:", ""),
            *table(lines, {}),
        )
    )


def table(tested: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> list[str]:
    text = [
        "| run | seeds | kNN falls | with an alarm | first alarms | lead in steps: least, median |",
        "|---|---|---|---|---|---|",
    ]
    for name in SABOTAGES:
        own = [line for line in tested if line["sabotage"] == name]
        if not own:
            continue
        falls, told = [knn_falls(line) for line in own], [first_alarms(one, limits) for one in own]
        leads = [
            fall - min(alarm.values())
            for fall, alarm in zip(falls, told, strict=True)
            if fall is not None and alarm
        ]
        firsts = sorted({key for one in told for key in one if one[key] == min(one.values())})
        lead = f"{min(leads)}, {statistics.median(leads):g}" if leads else ""
        fallen = sum(fall is not None for fall in falls)
        alarmed = sum(bool(one) for one in told)
        cells = (name, len(own), fallen, alarmed, ", ".join(firsts), lead)
        text.append("| " + " | ".join(map(str, cells)) + " |")
    return text


def read(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="runs/small", help="a trained run to go on from")
    parser.add_argument("--out", type=Path, default=Path("guardian.jsonl"))
    parser.add_argument("--healthy", type=int, default=20, help="seeds of the healthy run")
    parser.add_argument("--seeds", type=int, default=4, help="seeds of each sabotage")
    parser.add_argument("--only", choices=list(SABOTAGES), help="this kind of run alone")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args()
    done = {(line["sabotage"], line["seed"]) for line in read(args.out)}
    wanted = {name: args.healthy if name == "healthy" else args.seeds for name in SABOTAGES}
    for seed in [] if args.report else range(max(wanted.values())):
        for name, seeds in wanted.items():
            if seed >= seeds or args.only not in (None, name) or (name, seed) in done:
                continue
            line = run(name, seed, args.source)
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name}, seed {seed}: {line['seconds']} s", flush=True)
    print(report(read(args.out)))


if __name__ == "__main__":
    main()
