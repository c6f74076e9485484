"""What a run saw: ``python -m dinojax.show batch --workdir=runs/x --step=41237``.

``batch`` rebuilds the first images of a step (records, boxes, distortions, masks), prints them and
draws a contact sheet; ``where --id=NAME`` lists the steps that used a record. Nothing is replayed.

``snapshots`` scores the snapshots of the run's EMA teacher, as far as they have no scores yet, and
ranks them as teachers for Gram anchoring; it writes ``WORKDIR/snapshots.json``. The order is that
of mIoU where the images have segmentation maps and of locality otherwise, see docs/gram.md.

``pca``, ``attention``, ``similarity``, ``norms`` and ``neighbours`` draw the features of a frozen
backbone, ``--checkpoint``, on ``--data`` to ``--out``, a .png or .html file. ``report`` puts
curves, scores, pictures and configuration of a run on one page. See docs/pictures.md.
"""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from dinojax import command, show_features
from dinojax.batch_sheet import extent, sheet, slots, table
from dinojax.evaluation.snapshot_scores import CRITERIA, FILE, Snapshot, as_text
from dinojax.recorder import rebuild, uses
from dinojax.runs import open_run
from dinojax.runtime.atomic import replace_bytes, replace_text
from dinojax.runtime.exits import STOPS, leave
from dinojax.show_features import DATA
from dinojax.show_report import make_report
from dinojax.snapshots import Protocol, score_snapshots
from dinojax.training.safety import SNAPSHOTS

IMAGES, REPORT_IMAGES = 8, 4
COMMANDS = ("batch", "where", "snapshots", "report")


def show_batch(workdir: str, step: int, *, images: int, out: str | None, as_json: bool) -> None:
    """Print a step's first images and draw them to `out` (default: in the workdir)."""
    run = open_run(workdir)
    seen = rebuild(run, step, images)
    entries = slots(run, seen)
    path = Path(out) if out else run.workdir / f"batch_{step}.png"
    buffer = io.BytesIO()
    sheet(run, seen, entries).save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, buffer.getvalue())
    print(json.dumps(entries) if as_json else f"{extent(run, seen)}\n{table(entries)}\n\n{path}")
    for slot, cause in seen.gone.items():
        print(
            f"dinojax.show: slot {slot} cannot be rebuilt, because {seen.ids[slot]!r} cannot be "
            f"read now ({cause}); restore it and run the same command again",
            file=sys.stderr,
        )


def show_where(workdir: str, record_id: str, *, steps: int | None, as_json: bool) -> None:
    """Print the steps that used a record, as they are found."""
    run = open_run(workdir)
    steps = run.steps_run if steps is None else steps
    if steps < 1:
        raise ValueError(
            f"steps={steps}: the run has logged no step yet; give --steps={run.config.train.steps}"
        )
    found = uses(run, record_id, steps)
    if as_json:
        print(json.dumps([use._asdict() for use in found]))
        return
    notes = {
        "drawn": "",
        "substitute": "in place of {}, which was unreadable",
        "unreadable": "not used: unreadable, {} took its place",
        "no-op": "not used: the run went back and left this step out",
    }
    used = 0
    for use in found:
        used += use.kind in ("drawn", "substitute")
        note = notes[use.kind].format(use.other)
        print(f"step {use.step:>8}  slot {use.slot:>5}  {note}".rstrip(), flush=True)
    print(f"{record_id} was used {used} times in steps 0..{steps - 1}")


def show_snapshots(
    workdir: str, protocol: Protocol, *, as_json: bool, by: str | None = None
) -> None:
    """Score the snapshots that have no scores yet, and print all of them, the best first."""

    def tell(one: Snapshot) -> None:
        scores = "  ".join(f"{name} {value:.4f}" for name, value in one.scores.items())
        print(f"dinojax.show: scored step {one.step}: {scores}", file=sys.stderr, flush=True)

    table = score_snapshots(workdir, protocol, tell, by)
    if as_json:
        print((Path(workdir) / FILE).read_text(encoding="utf-8"), end="")
        return
    best = table.ranked()[0].step
    print(
        f"{as_text(table)}\n\nbest by {table.criterion}: --config.gram.teacher={workdir}/"
        f"{SNAPSHOTS}/{best}\n(or gram.teacher=auto with init.from={workdir})"
    )


def show_report(given: flags.FlagValues) -> None:
    """Write a page about the run to `out` (default: in the workdir) and print where it is."""
    path = Path(given.out or Path(given.workdir) / "report.html")
    text = make_report(
        given.workdir,
        data=given.data or [DATA],
        images=given.images or REPORT_IMAGES,
        image_px=given.image_px,
        recipe=given.recipe,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)
    print(path)


def main(argv: Sequence[str]) -> None:
    given = flags.FLAGS
    known = (*COMMANDS, *show_features.COMMANDS)
    if len(argv) != 2 or argv[1] not in known:
        command.refuse(f"give one of {known} and options that start with --")
    try:
        if argv[1] in show_features.COMMANDS:
            print(show_features.show_features(argv[1], _wanted(given), _needed(given, "out")))
        elif _needed(given, "workdir") and argv[1] == "batch":
            if given.step is None:
                raise ValueError("batch needs --step, e.g. --step=0")
            show_batch(
                given.workdir,
                given.step,
                images=given.images or IMAGES,
                out=given.out,
                as_json=given.json,
            )
        elif argv[1] == "report":
            show_report(given)
        elif argv[1] == "snapshots":
            show_snapshots(given.workdir, _protocol(given), as_json=given.json, by=given.by)
        else:
            if given.id is None:
                raise ValueError("where needs --id, the id of a record as `show batch` prints it")
            show_where(given.workdir, given.id, steps=given.steps, as_json=given.json)
    except STOPS as error:
        print(f"dinojax.show: {error}", file=sys.stderr)
        leave(error)


def _needed(given: flags.FlagValues, name: str) -> str:
    value = given[name].value
    if value is None:
        raise ValueError(f"--{name} is missing; see python -m dinojax.show --help")
    return value


def _wanted(given: flags.FlagValues) -> show_features.Wanted:
    try:
        down, right = map(float, given.at)
    except ValueError as error:
        raise ValueError(f"--at={','.join(given.at)}: give two numbers, as 0.5,0.5") from error
    return show_features.Wanted(
        _needed(given, "checkpoint"),
        given.data,
        given.image_px,
        given.images or IMAGES,
        given.layer,
        (down, right),
        given.of,
        given.series,
        given.foreground,
        given.k,
        given.batch,
    )


def _protocol(given: flags.FlagValues) -> Protocol:
    return Protocol(
        source=given.source,
        image_px=given.image_px,
        train_images=given.train_images,
        held_out_images=given.held_out_images,
        ignore=tuple(given.ignore),
    )


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The run.")
    flags.DEFINE_integer("step", None, "batch: which step.")
    flags.DEFINE_integer(
        "images",
        None,
        "How many: batch, of the step (8); features, of each --data (8); report (4).",
    )
    flags.DEFINE_string("out", None, "The picture; of batch by default WORKDIR/batch_STEP.png.")
    flags.DEFINE_string("id", None, "where: the record.")
    flags.DEFINE_integer("steps", None, "where: how many steps; default: those run so far.")
    flags.DEFINE_string(
        "source", None, "snapshots: images to score on, as data.source; default: the run's own."
    )
    flags.DEFINE_integer(
        "image_px", None, "Side of the centre crops; default: knn.image_px of the run, or 224."
    )
    flags.DEFINE_string("checkpoint", None, "Features of what: as for dinojax.evaluate.")
    flags.DEFINE_multi_string(
        "data", [], f"Features of which images: files, folders, sources; default: {DATA}."
    )
    flags.DEFINE_integer("layer", -1, "attention: which layer; negative: from the end.")
    flags.DEFINE_list("at", ["0.5", "0.5"], "similarity: to which patch, as DOWN,RIGHT in 0..1.")
    flags.DEFINE_integer("of", 0, "similarity: of which image.")
    flags.DEFINE_bool("series", False, "pca: also of the run's earlier snapshots or checkpoints.")
    flags.DEFINE_bool("foreground", False, "pca: of objects alone.")
    flags.DEFINE_string(
        "recipe", None, "report: FILE or FILE:VARIANT to compare with; default: the defaults."
    )
    flags.DEFINE_integer("k", 6, "neighbours: how many.")
    flags.DEFINE_integer("batch", 4, "Features: images at a time.")
    flags.DEFINE_integer("train_images", 1000, "snapshots: at most so many fit the linear head.")
    flags.DEFINE_integer("held_out_images", 500, "snapshots: at most so many are scored on.")
    flags.DEFINE_multi_integer(
        "ignore", [], "snapshots: number in the maps that is no class, as 255; repeatable."
    )
    flags.DEFINE_enum(
        "by", None, CRITERIA, "snapshots: what orders them; default: the first that is known."
    )
    flags.DEFINE_bool("json", False, "One JSON document instead of a table.")
    command.run(main)
