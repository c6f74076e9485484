"""What a run saw: ``python -m dinojax.show batch --workdir=runs/x --step=41237``.

``batch`` rebuilds the first images of a step (records, boxes, distortions, masks), prints them and
draws a contact sheet; ``where --id=NAME`` lists the steps that used a record. Nothing is replayed.
"""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from PIL import Image

from dinojax.build import build_views
from dinojax.evaluation.contact_sheet import SheetRow, SheetView, draw_sheet
from dinojax.recorder import Run, Seen, changed_since, open_run, rebuild, uses
from dinojax.resolutions import resolution_at
from dinojax.runtime.atomic import replace_bytes
from dinojax.runtime.exits import STOPS, leave
from dinojax.views.describe import FACTORS, WHOLE_IMAGE, describe

KEY = "F flipped   J colour jitter   G grey   B blur (sigma, px)   S solarized"
COMMANDS = ("batch", "where")


def slots(run: Run, seen: Seen) -> list[dict[str, Any]]:
    """Per image: its place, its record, what it stands for, and the choices of its crops."""
    batch_size = run.config.train.batch_size
    recipe = build_views(resolution_at(run.config, seen.step))
    lost = {p.position % batch_size: p for p in seen.batch["problems"] if p.attempt == 0}
    out = []
    for slot, record_id in enumerate(seen.ids):
        choices = jax.tree.map(lambda leaf, slot=slot: leaf[slot], seen.params)
        views = describe(choices, recipe)
        for view, mask in zip(views, seen.masks[:, slot], strict=False):  # of the global crops
            view["masked_patches"] = np.flatnonzero(mask).tolist()
        entry = {"step": seen.step, "slot": slot, "position": seen.step * batch_size + slot}
        entry |= {"id": record_id, "size": seen.batch["size"][slot].tolist(), "views": views}
        if slot in lost:
            entry["in_place_of"] = {"id": lost[slot].id, "cause": lost[slot].cause}
        out.append(entry)
    return out


def table(entries: list[dict[str, Any]]) -> str:
    """The same for eyes."""
    lines = []
    for entry in entries:
        lines += ["", heading(entry)]
        lines.append(
            f"  {'view':9}{'top':>5}{'left':>6}{'height':>8}{'width':>7}  {'flip':5}"
            f"{'bright':>7}{'contr':>7}{'satur':>7}{'hue':>7}  {'order':6}{'grey':6}"
            f"{'blur':>5}  {'solar':7}masked"
        )
        for view in entry["views"]:
            top, left, height, width = view["box"]
            within = "" if view["within"] == WHOLE_IMAGE else f"  within {view['within']}"
            masked = len(view["masked_patches"]) if "masked_patches" in view else ""
            order = "".join(name[0] for name in view["order"])
            factors = "".join(f"{view[name]:7.3f}" for name in FACTORS)
            lines.append(
                f"  {view['view']:9}{top:5}{left:6}{height:8}{width:7}  {_yes(view['flip']):5}"
                f"{factors}  {order:6}{_yes(view['grey']):6}{view['blur_sigma']:5.2f}  "
                f"{_yes(view['solarize']):7}{masked}{within}"
            )
    return "\n".join(lines[1:])


def heading(entry: dict[str, Any]) -> str:
    height, width = entry["size"]
    text = f"slot {entry['slot']}   {entry['id']}   {width} x {height} px on the canvas"
    lost = entry.get("in_place_of")
    return text if lost is None else f"{text}   in place of {lost['id']}, which is unreadable"


def sheet(run: Run, seen: Seen, entries: list[dict[str, Any]]) -> Image.Image:
    """The contact sheet."""
    patches = round(seen.masks.shape[-1] ** 0.5)
    rows = []
    for slot, entry in enumerate(entries):
        height, width = entry["size"]
        crops = [*seen.global_crops[:, slot], *seen.local_crops[:, slot]]
        views = []
        for i, (crop, view) in enumerate(zip(crops, entry["views"], strict=True)):
            mask = seen.masks[i, slot].reshape(patches, patches) if i < len(seen.masks) else None
            inside = view["within"]
            views.append(
                SheetView(
                    pixels=_rgb(_levels(crop, run)),
                    box=tuple(view["box"]),
                    within=None if inside == WHOLE_IMAGE else int(inside.split()[1]) - 1,
                    note=_note(view, mask),
                    mask=mask,
                )
            )
        canvas = seen.batch["canvas"][slot][:height, :width]
        rows.append(SheetRow(heading(entry), _rgb(canvas), views))
    return draw_sheet(f"{run.workdir.resolve().name}, {_extent(run, seen)}", KEY, rows)


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
    print(json.dumps(entries) if as_json else f"{_extent(run, seen)}\n{table(entries)}\n\n{path}")
    if changed_since(run, seen):
        print(
            "dinojax.show: other records are unreadable now than when this step was run: its true "
            "substitutes are in the ledger",
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
    }
    used = 0
    for use in found:
        used += use.kind != "unreadable"
        note = notes[use.kind].format(use.other)
        print(f"step {use.step:>8}  slot {use.slot:>5}  {note}".rstrip(), flush=True)
    print(f"{record_id} was used {used} times in steps 0..{steps - 1}")


def _extent(run: Run, seen: Seen) -> str:
    future = "" if seen.step < run.steps_run else " (not run yet)"
    batch_size = run.config.train.batch_size
    return f"step {seen.step}{future}, images 1 to {len(seen.ids)} of {batch_size}"


def _note(view: dict[str, Any], mask: np.ndarray | None) -> str:
    neutral = [view[name] for name in FACTORS] == [1, 1, 1, 0]
    letters = [
        ("F", view["flip"]),
        ("J", not neutral),
        ("G", view["grey"]),
        (f"B{view['blur_sigma']:.1f}", view["blur_sigma"]),
        ("S", view["solarize"]),
    ]
    note = " ".join(letter for letter, applied in letters if applied)
    return note if mask is None else f"{note}   masked {mask.sum()} of {mask.size}"


def _levels(crop: np.ndarray, run: Run) -> np.ndarray:
    """Normalised floats back to grey levels."""
    crops = run.config.crops
    return np.clip(255 * (crop * crops.rgb_std + crops.rgb_mean) + 0.5, 0, 255).astype(np.uint8)


def _rgb(image: np.ndarray) -> np.ndarray:
    """Three channels for the eye: the first three, or one three times."""
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)


def _yes(value: bool) -> str:
    return "yes" if value else "-"


def main(argv: Sequence[str]) -> None:
    given = flags.FLAGS
    if len(argv) != 2 or argv[1] not in COMMANDS:
        raise app.UsageError(f"give one of {COMMANDS} and options that start with --")
    try:
        if argv[1] == "batch":
            if given.step is None:
                raise ValueError("batch needs --step, e.g. --step=0")
            show_batch(
                given.workdir, given.step, images=given.images, out=given.out, as_json=given.json
            )
        else:
            if given.id is None:
                raise ValueError("where needs --id, the id of a record as `show batch` prints it")
            show_where(given.workdir, given.id, steps=given.steps, as_json=given.json)
    except STOPS as error:
        print(f"dinojax.show: {error}", file=sys.stderr)
        leave(error)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The run.")
    flags.DEFINE_integer("step", None, "batch: which step.")
    flags.DEFINE_integer("images", 8, "batch: how many of its images, from the first.")
    flags.DEFINE_string("out", None, "batch: the picture; default: WORKDIR/batch_STEP.png.")
    flags.DEFINE_string("id", None, "where: the record.")
    flags.DEFINE_integer("steps", None, "where: how many steps; default: those run so far.")
    flags.DEFINE_bool("json", False, "One JSON document instead of a table.")
    flags.mark_flag_as_required("workdir")
    app.run(main)
