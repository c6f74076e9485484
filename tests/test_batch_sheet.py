"""What the contact sheet says of a step, and how it draws images of any number of channels."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinojax import batch_sheet
from dinojax.batch_sheet import facts, sheet
from dinojax.config import default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.recorder import Seen
from dinojax.runs import Run
from dinojax.training.data import open_data
from dinojax.views.params import CropParams

LEVELS = (30, 90, 210, 140, 170)
"""Of each channel, everywhere on the canvas; the crops have 20 more."""


def run(**keys) -> Run:
    given = shrink(default_config())
    given.update_from_flattened_dict({k.replace("__", "."): v for k, v in keys.items()})
    config = parse_config(given)
    return Run(Path("runs/x"), config, open_data(config))


def seen(channels: int, std: float) -> Seen:
    """One image, 40 high and 64 wide, on a canvas that is black beyond it."""
    levels = np.array(LEVELS[:channels])
    canvas = np.zeros((1, 64, 64, channels), np.uint8)
    canvas[:, :40] = levels
    crops = ((levels + 20) / 255 - 0.5) / std
    return Seen(
        step=0,
        batch={
            "canvas": canvas,
            "size": np.array([[40, 64]], np.int32),
            "index": np.zeros(1, np.int64),
            "problems": (),
            "step": 0,
        },
        ids=["a.tif"],
        gone={},
        global_crops=np.broadcast_to(crops, (2, 1, 64, 64, channels)).astype(np.float32),
        local_crops=np.broadcast_to(crops, (1, 1, 32, 32, channels)).astype(np.float32),
        masks=np.zeros((2, 1, 16), bool),
        params=CropParams(*[None] * len(CropParams._fields)),
    )


def view(name: str) -> dict:
    plain = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, "grey": False}
    plain |= {"flip": False, "blur_sigma": 0.0, "solarize": False}
    return {"view": name, "within": "image", "box": [5, 5, 20, 20], **plain}


ENTRY = {"step": 0, "slot": 0, "position": 0, "id": "a.tif", "size": [40, 64]}
ENTRY |= {"views": [view("global 1"), view("global 2"), view("local 1")]}


def area(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((pixels == colour).all(-1).sum())


@pytest.mark.parametrize(
    ("channels", "drawn"),
    [
        (1, (30, 30, 30)),
        (2, (30, 30, 30)),
        (3, (30, 90, 210)),
        (5, (30, 90, 210)),
    ],
)
def test_images_and_crops_have_the_colours_of_their_first_channels(channels, drawn):
    """The image on the canvas, without its padding, and the crops as they were normalised."""
    keys = {"student__in_chans": channels, "crops__rgb_mean": (0.5,) * channels}
    given = run(**keys, crops__rgb_std=(0.2,) * channels)
    pixels = np.asarray(sheet(given, seen(channels, 0.2), [ENTRY]))
    crop = tuple(level + 20 for level in drawn)
    assert area(pixels, drawn) > 0.8 * 200 * 125  # all but the boxes
    assert area(pixels, crop) == 2 * 200**2 + 90**2
    assert area(pixels, (0, 0, 0)) == 0


@pytest.mark.parametrize(
    ("channels", "line"),
    [
        (1, None),
        (2, "images of 2 channels, of which are drawn: the first alone, as grey"),
        (3, None),
        (5, "images of 5 channels, of which are drawn: 1, 2, 3 as red, green, blue"),
    ],
)
def test_facts_say_which_channels_are_drawn(channels, line):
    given = run(student__in_chans=channels)
    first, *rest = facts(given, seen(channels, 0.2))
    assert first == "global crops 64 px, local crops 32 px, masks of 4 x 4 patches"
    assert rest == ([] if line is None else [line])


def test_facts_of_a_mixture_and_of_the_steps_resolution():
    given = run(
        data__mixture=(("scenes", 1.0), ("scenes", 2.0)),
        crops__global_crops_size=(64, 128),
        crops__local_crops_size=(32, 48),
    )
    assert {facts(given, dataclasses.replace(seen(3, 0.2), step=step))[0] for step in range(4)} == {
        "global crops 64 px, local crops 32 px, masks of 4 x 4 patches",
        "global crops 128 px, local crops 48 px, masks of 4 x 4 patches",
    }
    assert facts(given, seen(3, 0.2))[1] == "sources: 0/ scenes   1/ scenes"


def test_a_slot_that_is_gone(monkeypatch):
    rows = []

    def draw(title, facts, key, given):
        rows.extend(given)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(batch_sheet, "draw_sheet", draw)
    lost = {"step": 0, "slot": 0, "position": 0, "id": "a.tif", "gone": "it is broken"}
    lost |= {"in_place_of": {"id": "b.tif", "cause": "it was broken"}}
    sheet(run(), seen(3, 0.2), [lost])
    (row,) = rows
    assert row.title == "slot 0   a.tif   in place of b.tif, which was unreadable"
    assert row.image == "cannot be read now: it is broken" and not row.views
