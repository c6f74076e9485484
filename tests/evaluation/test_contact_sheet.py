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


def view(px: int, box, *, within=None, mask=None, level=GREY) -> SheetView:
    return SheetView(np.full((px, px, 3), level, np.uint8), box, within, "", mask)


def sheet(*rows: SheetRow) -> np.ndarray:
    return np.asarray(draw_sheet("title", ["fact"], "key", rows))


def row(
    *, local=4, image=(100, 200), mask=None, within=None, title="slot 0", level=GREY
) -> SheetRow:
    views = [view(32, (10, 20, 50, 80), mask=mask, level=level), view(32, (40, 100, 40, 60))]
    views += [view(16, (5, 5, 20, 20), within=within) for _ in range(local)]
    return SheetRow(title, np.full((*image, 3), GREY, np.uint8), views)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """All texts, instead of on the sheet."""
    texts = []
    monkeypatch.setattr(
        contact_sheet.ImageDraw.ImageDraw,
        "text",
        lambda self, place, text, *rest, **__: texts.append(text),
    )
    return texts


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
    body = pixels[6 * contact_sheet.LINE_PX + 20 :, : contact_sheet.MARGIN_PX + CELL_PX]
    image = box_of((body == GREY).all(-1) | coloured(body, RED) | coloured(body, BLUE))
    assert image[2:] == (100, 200)
    for colour, (top, left, height, width) in ((RED, (10, 20, 50, 80)), (BLUE, (40, 100, 40, 60))):
        assert box_of(coloured(body, colour)) == (image[0] + top, image[1] + left, height, width)


def test_boxes_within_a_global_crop_are_drawn_there():
    inside, outside = sheet(row(within=1)), sheet(row())
    first = contact_sheet.MARGIN_PX + CELL_PX + contact_sheet.GAP_PX
    second = slice(first + CELL_PX + contact_sheet.GAP_PX, first + 2 * CELL_PX + 10)
    body = slice(6 * contact_sheet.LINE_PX + 20, None)
    assert coloured(inside[body, second], GREEN).any()
    assert not coloured(outside[body, second], GREEN).any()
    assert not coloured(inside[body, : contact_sheet.MARGIN_PX + CELL_PX], GREEN).any()
    assert coloured(outside[body, : contact_sheet.MARGIN_PX + CELL_PX], GREEN).any()


@pytest.mark.parametrize("level", [0, 24, GREY, 255])
def test_masked_patches_are_told_from_any_image(level):
    """Two kinds of pixels, far apart, so that neither a dark image nor a light one hides them."""
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = mask[3, 0] = True
    pixels = sheet(row(mask=mask, level=level))
    frame = box_of(coloured(pixels, RED)[:, contact_sheet.MARGIN_PX + CELL_PX + 4 :])
    top, left = frame[0] + 2, frame[1] + contact_sheet.MARGIN_PX + CELL_PX + 4 + 2
    patch = CELL_PX // 4
    for i in range(4):
        for j in range(4):
            inside = pixels[top + i * patch :, left + j * patch :][:patch, :patch].max(-1)
            assert (np.ptp(inside.astype(int)) > 100) == mask[i, j], (i, j)
            assert mask[i, j] or (inside == level).all()


def test_masks_of_patches_that_do_not_divide_the_cell():
    """Each patch covers its own part, whatever the pixels of the crop."""
    mask = np.eye(14, dtype=bool)
    covered = contact_sheet._masked(np.full((200, 200, 3), 90, np.uint8), mask)
    changed = (covered != 90).any(-1)
    for i in range(14):
        centre = round((i + 0.5) * 200 / 14)
        assert changed[centre, centre] and not changed[centre, (centre + 100) % 200]
    assert pytest.approx(changed.sum(), rel=0.01) == 200 * 200 / 14


def test_numbers_are_readable():
    """On top of all boxes, inside their own, and none on another, also with two digits."""
    boxes = [(0, 0, 199, 199), (1, 1, 198, 198), *[(40, 50, 90, 80)] * 10, (40, 52, 60, 60)]
    taken = []
    for number, (top, left, height, width) in enumerate(boxes):
        box = (left, top, left + width, top + height)
        taken.append(contact_sheet._free_place(box, 10 if number < 9 else 16, taken))
        x0, y0, x1, y1 = taken[-1]
        assert left <= x0 and top <= y0 and x1 <= left + width and y1 <= top + height
        assert x1 - x0 + 1 == (10 if number < 9 else 16)
    for i, first in enumerate(taken):
        assert not any(contact_sheet._meet(first, second) for second in taken[:i])


def test_numbers_lie_on_top_of_the_boxes():
    """Eight equal boxes: the sheet shows eight whole tags."""
    found = []
    views = [view(32, (0, 0, 2, 2)), view(32, (0, 0, 2, 2))]
    views += [view(16, (10, 10, 80, 150)) for _ in range(8)]
    pixels = sheet(SheetRow("", np.full((100, 200, 3), GREY, np.uint8), views))
    body = pixels[6 * contact_sheet.LINE_PX + 20 :, : contact_sheet.MARGIN_PX + CELL_PX]
    green = coloured(body, GREEN)
    # A tag's last column is green from top to bottom; so are the box's two lines, but 80 long.
    for x in range(body.shape[1]):
        runs = "".join("#" if g else " " for g in green[:, x]).split()
        found += [len(run) for run in runs]
    assert found.count(contact_sheet.TAG_PX) >= 8


def test_an_image_that_cannot_be_shown(said):
    pixels = sheet(SheetRow("slot 0", "cannot be read now"), row())
    assert {"slot 0", "cannot be read now"} <= set(said)
    assert coloured(pixels, contact_sheet.BLANK).sum() > CELL_PX * CELL_PX
    assert np.asarray(draw_sheet("", [], "", [SheetRow("", "gone")])).shape[1] == 768


def test_long_names_lose_their_middle(said):
    title = "slot 0   " + "folder/" * 60 + "end.jpg   64 x 64 px"
    pixels = sheet(row(title=title), row(title="short"))
    (cut,) = [text for text in said if " ... " in text]
    assert cut.startswith("slot 0   folder/") and cut.endswith("end.jpg   64 x 64 px")
    room = pixels.shape[1] - 2 * contact_sheet.MARGIN_PX
    assert 0.9 * room < ImageFont.load_default(12).getlength(cut) <= room and "short" in said
