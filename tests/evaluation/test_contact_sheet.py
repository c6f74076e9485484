"""The sheet: boxes where they belong, masked patches dark, nothing over anything else."""

import numpy as np
import pytest
from PIL import ImageFont

from dinojax.evaluation import contact_sheet
from dinojax.evaluation.contact_sheet import (
    CELL_PX,
    COLOURS,
    PAPER,
    SheetRow,
    SheetView,
    draw_sheet,
)

GREY = 200
RED, BLUE, GREEN = COLOURS


def view(px: int, box, *, within=None, mask=None) -> SheetView:
    return SheetView(np.full((px, px, 3), GREY, np.uint8), box, within, "", mask)


def sheet(*rows: SheetRow) -> np.ndarray:
    return np.asarray(draw_sheet("title", "key", rows))


def row(*, local=4, image=(100, 200), mask=None, within=None, title="slot 0") -> SheetRow:
    views = [view(32, (10, 20, 50, 80), mask=mask), view(32, (40, 100, 40, 60))]
    views += [view(16, (5, 5, 20, 20), within=within) for _ in range(local)]
    return SheetRow(title, np.full((*image, 3), GREY, np.uint8), views)


def coloured(pixels: np.ndarray, colour) -> np.ndarray:
    return (pixels == colour).all(-1)


def box_of(found: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, height, width) of what is True."""
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


@pytest.mark.parametrize("local", [1, 2, 5, 8])
@pytest.mark.parametrize("rows", [1, 3])
def test_everything_fits(rows, local):
    pixels = sheet(*[row(local=local)] * rows)
    edge = (
        np.concatenate([pixels[:8], pixels[-8:]]),
        np.concatenate([pixels[:, :8], pixels[:, -8:]]),
    )
    assert all((part == PAPER).all() for part in edge)
    # Frames of both colours of global crops, in every row, at the same columns.
    for colour in (RED, BLUE):
        frames = coloured(pixels, colour).sum(axis=0) >= rows * CELL_PX
        assert frames.sum() == 4  # two lines of two pixels


def test_boxes_lie_where_the_crops_were_cut():
    """The image is 200 wide and drawn at its size, centred in height; the legend is above."""
    pixels = sheet(row())
    body = pixels[5 * contact_sheet.LINE_PX + 20 :, : contact_sheet.MARGIN_PX + CELL_PX]
    image = box_of((body == GREY).all(-1) | coloured(body, RED) | coloured(body, BLUE))
    assert image[2:] == (100, 200)
    for colour, (top, left, height, width) in ((RED, (10, 20, 50, 80)), (BLUE, (40, 100, 40, 60))):
        assert box_of(coloured(body, colour)) == (image[0] + top, image[1] + left, height, width)


def test_boxes_within_a_global_crop_are_drawn_there():
    inside, outside = sheet(row(within=1)), sheet(row())
    first = contact_sheet.MARGIN_PX + CELL_PX + contact_sheet.GAP_PX
    second = slice(first + CELL_PX + contact_sheet.GAP_PX, first + 2 * CELL_PX + 10)
    body = slice(5 * contact_sheet.LINE_PX + 20, None)
    assert coloured(inside[body, second], GREEN).any()
    assert not coloured(outside[body, second], GREEN).any()
    assert not coloured(inside[body, : contact_sheet.MARGIN_PX + CELL_PX], GREEN).any()
    assert coloured(outside[body, : contact_sheet.MARGIN_PX + CELL_PX], GREEN).any()


def test_masked_patches_are_dark():
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = mask[3, 0] = True
    pixels = sheet(row(mask=mask))
    frame = box_of(coloured(pixels, RED)[:, contact_sheet.MARGIN_PX + CELL_PX + 4 :])
    top, left = frame[0] + 2, frame[1] + contact_sheet.MARGIN_PX + CELL_PX + 4 + 2
    patch = CELL_PX // 4
    for i in range(4):
        for j in range(4):
            centre = pixels[top + i * patch + patch // 2, left + j * patch + patch // 2]
            assert (centre.max() < 90) == mask[i, j], (i, j)


def test_long_names_lose_their_middle(monkeypatch):
    said = []
    monkeypatch.setattr(
        contact_sheet.ImageDraw.ImageDraw,
        "text",
        lambda self, place, text, *rest, **__: said.append(text),
    )
    title = "slot 0   " + "folder/" * 60 + "end.jpg   64 x 64 px"
    pixels = sheet(row(title=title), row(title="short"))
    (cut,) = [text for text in said if " ... " in text]
    assert cut.startswith("slot 0   folder/") and cut.endswith("end.jpg   64 x 64 px")
    room = pixels.shape[1] - 2 * contact_sheet.MARGIN_PX
    assert 0.9 * room < ImageFont.load_default(12).getlength(cut) <= room and "short" in said
