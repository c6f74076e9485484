"""A step in words and as a picture: what ``python -m dinojax.show batch`` prints and draws."""

from typing import Any

import jax
import numpy as np
from PIL import Image

from dinojax.build.inputs import build_views
from dinojax.config.resolutions import resolution_at
from dinojax.evaluation.contact_sheet import SheetRow, SheetView, draw_sheet
from dinojax.recorder import Seen
from dinojax.runs import Run
from dinojax.views.describe import FACTORS, WHOLE_IMAGE, describe

KEY = "F flipped   J colour jitter   G grey   B blur (sigma, px)   S solarized"


def extent(run: Run, seen: Seen) -> str:
    """Which images these are."""
    future = "" if seen.step < run.steps_run else " (not logged yet)"
    if run.left_out(seen.step):
        future = " (left out, after steps that were not finite)"
    batch_size = run.config.train.batch_size
    return f"step {seen.step}{future}, images 1 to {len(seen.ids)} of {batch_size}"


def slots(run: Run, seen: Seen) -> list[dict[str, Any]]:
    """Per image: its place, its record, what it stands for, and the choices of its crops.

    Instead of choices, which depend on the image's size, those that are gone have ``gone``: why.
    """
    batch_size = run.config.train.batch_size
    recipe = build_views(resolution_at(run.config, seen.step))
    lost = {p.position % batch_size: p for p in seen.batch["problems"] if p.attempt == 0}
    out = []
    for slot, record_id in enumerate(seen.ids):
        entry: dict[str, Any] = {"step": seen.step, "slot": slot}
        entry |= {"position": seen.step * batch_size + slot, "id": record_id}
        if slot in seen.gone:
            entry["gone"] = seen.gone[slot]
        else:
            choices = jax.tree.map(lambda leaf, slot=slot: leaf[slot], seen.params)
            views = describe(choices, recipe)
            for view, mask in zip(views, seen.masks[:, slot], strict=False):  # of the global crops
                view["masked_patches"] = np.flatnonzero(mask).tolist()
            entry |= {"size": seen.batch["size"][slot].tolist(), "views": views}
        if slot in lost:
            entry["in_place_of"] = {"id": lost[slot].id, "cause": lost[slot].cause}
        out.append(entry)
    return out


def table(entries: list[dict[str, Any]]) -> str:
    """The same for eyes."""
    lines = []
    for entry in entries:
        lines += ["", heading(entry)]
        if "gone" in entry:
            lines.append(f"  {gone(entry)}")
            continue
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
                f"{_yes(view['solarize']):7}{masked}{within}".rstrip()
            )
    return "\n".join(lines[1:])


def heading(entry: dict[str, Any]) -> str:
    """Of a slot."""
    text = f"slot {entry['slot']}   {entry['id']}"
    if "gone" not in entry:
        height, width = entry["size"]
        text += f"   {width} x {height} px on the canvas"
    if "in_place_of" in entry:
        text += f"   in place of {entry['in_place_of']['id']}, which was unreadable"
    return text


def gone(entry: dict[str, Any]) -> str:
    """Why a slot has no crops."""
    return f"cannot be read now: {entry['gone']}"


def sheet(run: Run, seen: Seen, entries: list[dict[str, Any]]) -> Image.Image:
    """The contact sheet."""
    rows = []
    for slot, entry in enumerate(entries):
        if "gone" in entry:
            rows.append(SheetRow(heading(entry), gone(entry)))
            continue
        crops = [*seen.global_crops[:, slot], *seen.local_crops[:, slot]]
        masks = [mask.reshape((round(mask.size**0.5),) * 2) for mask in seen.masks[:, slot]]
        masks += [None] * (len(crops) - len(masks))
        views = [
            SheetView(
                pixels=_visible(_levels(crop, run)),
                box=tuple(view["box"]),
                within=_global_crop(view["within"]),
                note=_note(view, mask),
                mask=mask,
            )
            for crop, mask, view in zip(crops, masks, entry["views"], strict=True)
        ]
        height, width = entry["size"]
        image = _visible(seen.batch["canvas"][slot][:height, :width])
        rows.append(SheetRow(heading(entry), image, views))
    title = f"{run.workdir.resolve().name}, {extent(run, seen)}"
    return draw_sheet(title, facts(run, seen), KEY, rows)


def facts(run: Run, seen: Seen) -> list[str]:
    """What holds for all images of the step."""
    crops = resolution_at(run.config, seen.step).crops
    sizes = f"global crops {crops.global_crops_size} px, local crops {crops.local_crops_size} px"
    side = round(seen.masks.shape[-1] ** 0.5)
    lines = [f"{sizes}, masks of {side} x {side} patches"]
    channels = run.config.student.in_chans
    if channels not in (1, 3):
        drawn = "the first alone, as grey" if channels == 2 else "1, 2, 3 as red, green, blue"
        lines.append(f"images of {channels} channels, of which are drawn: {drawn}")
    if run.config.data.mixture:
        parts = [f"{i}/ {name}" for i, (name, _) in enumerate(run.config.data.mixture)]
        lines.append(f"sources: {'   '.join(parts)}")
    return lines


def _global_crop(within: str) -> int | None:
    return None if within == WHOLE_IMAGE else int(within.split()[1]) - 1


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


def _visible(image: np.ndarray) -> np.ndarray:
    """Three channels for the eye: the first three, or the first one three times."""
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)


def _yes(value: bool) -> str:
    return "yes" if value else "-"
