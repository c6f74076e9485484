"""A picture of what the model saw: each image with its boxes, its crops, and the masked patches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

CELL_PX = 200
"""Side of the image and of each global crop on the sheet."""
GAP_PX = 10
LINE_PX = 16
MARGIN_PX = 24

PAPER, INK, FAINT = (255, 255, 255), (32, 36, 40), (120, 126, 134)
COLOURS = ((214, 64, 48), (38, 104, 196), (24, 140, 88))
"""Of global crop 1, global crop 2 and the local crops: boxes, frames and legend."""
MASK = (24, 28, 36)
MASK_OPACITY = 0.72


@dataclass(frozen=True)
class SheetView:
    """A crop on the sheet.

    Attributes:
        pixels: square, at any size.
        box: (top, left, height, width) in pixels of `within`.
        within: the global crop (0 or 1) that holds the box; None: the image.
        note: what was done to it, in a few letters.
        mask: masked patches, or None.
    """

    pixels: UInt8[np.ndarray, "S S 3"]
    box: tuple[int, int, int, int]
    within: int | None
    note: str
    mask: Bool[np.ndarray, "p p"] | None = None


@dataclass(frozen=True)
class SheetRow:
    """An image and its crops: two global ones, then the local ones."""

    title: str
    image: UInt8[np.ndarray, "H W 3"]
    views: Sequence[SheetView]


def draw_sheet(title: str, key: str, rows: Sequence[SheetRow]) -> Image.Image:
    """All rows on one sheet, below a title and a legend.

    Args:
        key: what the letters of the notes mean.
    """
    columns = max(-(-(len(row.views) - 2) // 2) for row in rows)
    width = 2 * MARGIN_PX + 3 * (CELL_PX + GAP_PX) + columns * (_local_px() + GAP_PX) - GAP_PX
    height = 2 * MARGIN_PX + 4 * LINE_PX + len(rows) * _row_px()
    sheet = Image.new("RGB", (max(width, 640), height), PAPER)
    draw = ImageDraw.Draw(sheet)
    _legend(draw, title, key)
    for number, row in enumerate(rows):
        _draw_row(sheet, row, MARGIN_PX + 4 * LINE_PX + number * _row_px())
    return sheet


def _local_px() -> int:
    """Two local crops, with a note below the upper one, are as high as a global one."""
    return (CELL_PX - LINE_PX - 4) // 2


def _row_px() -> int:
    return LINE_PX + 6 + CELL_PX + LINE_PX + 18


def _legend(draw: ImageDraw.ImageDraw, title: str, key: str) -> None:
    draw.text((MARGIN_PX, MARGIN_PX - 6), title, INK, _font(15))
    x, y = MARGIN_PX, MARGIN_PX + LINE_PX + 4
    for name, colour in zip(("global 1", "global 2", "local"), COLOURS, strict=True):
        draw.rectangle((x, y + 2, x + 11, y + 13), outline=colour, width=2)
        draw.text((x + 18, y + 1), name, INK, _font(12))
        x += 34 + draw.textlength(name, _font(12))
    draw.rectangle((x, y + 2, x + 11, y + 13), fill=MASK)
    draw.text((x + 18, y + 1), "masked", INK, _font(12))
    draw.text((x + 34 + draw.textlength("masked", _font(12)), y + 1), key, FAINT, _font(12))


def _draw_row(sheet: Image.Image, row: SheetRow, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, top), _shortened(draw, row.title, sheet.width), INK, _font(12))
    top += LINE_PX + 6
    picture, scale = _fitted(row.image)
    x = MARGIN_PX + (CELL_PX - picture.width) // 2
    y = top + (CELL_PX - picture.height) // 2
    sheet.paste(picture, (x, y))
    _draw_boxes(draw, row.views, None, (x, y), scale)
    for i, view in enumerate(row.views):
        corner, side = _place(i, top)
        pixels = view.pixels if view.mask is None else _masked(view.pixels, view.mask)
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC), corner)
        if i < 2:
            _draw_boxes(draw, row.views, i, corner, side / len(view.pixels))
        frame = (corner[0] - 2, corner[1] - 2, corner[0] + side + 1, corner[1] + side + 1)
        draw.rectangle(frame, outline=_colour(i), width=2)
        name = f"{i - 1}  " if i >= 2 else ""
        draw.text((corner[0], corner[1] + side + 3), name + view.note, FAINT, _font(11))


def _place(i: int, top: int) -> tuple[tuple[int, int], int]:
    """Corner and side of view i: global crops beside the image, then local ones in two lines."""
    first = MARGIN_PX + CELL_PX + GAP_PX
    if i < 2:
        return (first + i * (CELL_PX + GAP_PX), top), CELL_PX
    column, line = (i - 2) // 2, (i - 2) % 2
    side = _local_px()
    left = first + 2 * (CELL_PX + GAP_PX) + column * (side + GAP_PX)
    return (left, top + line * (CELL_PX - side)), side


def _draw_boxes(
    draw: ImageDraw.ImageDraw,
    views: Sequence[SheetView],
    within: int | None,
    corner: tuple[int, int],
    scale: float,
) -> None:
    """Boxes of all views that lie within the image or a global crop; local ones are numbered."""
    for i, view in reversed(list(enumerate(views))):  # global boxes last, on top
        if view.within != within or (within is not None and i < 2):
            continue
        top, left, height, width = (round(side * scale) for side in view.box)
        x, y = corner[0] + left, corner[1] + top
        box = (x, y, x + max(width, 2) - 1, y + max(height, 2) - 1)
        halo = (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
        draw.rectangle(halo, outline=PAPER)
        draw.rectangle(box, outline=_colour(i), width=2)
        if i >= 2:
            tag = (x, y, x + 9, y + 12)
            draw.rectangle(tag, fill=_colour(i))
            draw.text((x + 2, y), str(i - 1), PAPER, _font(10))


def _masked(
    pixels: UInt8[np.ndarray, "S S 3"], mask: Bool[np.ndarray, "p p"]
) -> UInt8[np.ndarray, "S S 3"]:
    patch = len(pixels) // len(mask)
    covered = np.kron(mask, np.ones((patch, patch), bool))[..., None]
    dark = (1 - MASK_OPACITY) * pixels + MASK_OPACITY * np.array(MASK)
    return np.where(covered, dark, pixels).astype(np.uint8)


def _fitted(image: UInt8[np.ndarray, "H W 3"]) -> tuple[Image.Image, float]:
    scale = CELL_PX / max(image.shape[:2])
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), scale


def _shortened(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """With its middle left out, if it is too long for a line."""
    room = int((width - 2 * MARGIN_PX) / max(draw.textlength(text, _font(12)), 1) * len(text))
    return text if len(text) <= room else f"{text[: room // 2 - 2]} ... {text[-(room // 2 - 3) :]}"


def _colour(i: int) -> tuple[int, int, int]:
    return COLOURS[min(i, 2)]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
