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
MIN_PX = 768
"""Width of the legend, and of a sheet with one or two local crops."""

PAPER, INK, FAINT = (255, 255, 255), (32, 36, 40), (120, 126, 134)
BLANK = (238, 239, 241)
COLOURS = ((214, 64, 48), (38, 104, 196), (24, 140, 88))
"""Of global crop 1, global crop 2 and the local crops: boxes, frames and legend."""
MASK, STRIPE = (24, 28, 36), (226, 230, 236)
MASK_OPACITY = 0.6
STRIPE_EVERY_PX = 7
TAG_PX = 13
"""Height of a box's number."""


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
    """An image and its crops: two global ones, then the local ones.

    Attributes:
        image: or why there is none; then there are no views.
    """

    title: str
    image: UInt8[np.ndarray, "H W 3"] | str
    views: Sequence[SheetView] = ()


def draw_sheet(title: str, facts: Sequence[str], key: str, rows: Sequence[SheetRow]) -> Image.Image:
    """All rows on one sheet, below a title, lines of facts and a legend.

    Args:
        key: what the letters of the notes mean.
    """
    columns = max(0, *(-(-(len(row.views) - 2) // 2) for row in rows))
    width = 2 * MARGIN_PX + 3 * (CELL_PX + GAP_PX) + columns * (_local_px() + GAP_PX) - GAP_PX
    head = MARGIN_PX + (len(facts) + 4) * LINE_PX
    sheet = Image.new("RGB", (max(width, MIN_PX), head + len(rows) * _row_px()), PAPER)
    draw = ImageDraw.Draw(sheet)
    _line(draw, MARGIN_PX - 6, title, INK, 15)
    for number, fact in enumerate(facts):
        _line(draw, MARGIN_PX + (number + 1) * LINE_PX, fact, FAINT, 12)
    _legend(sheet, MARGIN_PX + (len(facts) + 1) * LINE_PX + 4, key)
    for number, row in enumerate(rows):
        _draw_row(sheet, row, head + number * _row_px())
    return sheet


def _local_px() -> int:
    """Two local crops, with a note below the upper one, are as high as a global one."""
    return (CELL_PX - LINE_PX - 4) // 2


def _row_px() -> int:
    return LINE_PX + 6 + CELL_PX + LINE_PX + 18


def _legend(sheet: Image.Image, y: int, key: str) -> None:
    draw, x = ImageDraw.Draw(sheet), MARGIN_PX
    for name, colour in zip(("global 1", "global 2", "local"), COLOURS, strict=True):
        draw.rectangle((x, y + 2, x + 11, y + 13), outline=colour, width=2)
        draw.text((x + 18, y + 1), name, INK, _font(12))
        x += 34 + round(draw.textlength(name, _font(12)))
    swatch = _masked(np.full((14, 14, 3), PAPER, np.uint8), np.ones((1, 1), bool))
    sheet.paste(Image.fromarray(swatch), (x, y + 1))
    draw.text((x + 18, y + 1), "masked", INK, _font(12))
    draw.text((x + 34 + draw.textlength("masked", _font(12)), y + 1), key, FAINT, _font(12))


def _draw_row(sheet: Image.Image, row: SheetRow, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    _line(draw, top, row.title, INK, 12)
    top += LINE_PX + 6
    if isinstance(row.image, str):
        right = sheet.width - MARGIN_PX - 1
        draw.rectangle((MARGIN_PX, top, right, top + CELL_PX - 1), BLANK, FAINT)
        _line(draw, top + CELL_PX // 2 - LINE_PX // 2, row.image, INK, 12, indent=GAP_PX)
        return
    picture, scale = _fitted(row.image)
    x = MARGIN_PX + (CELL_PX - picture.width) // 2
    y = top + (CELL_PX - picture.height) // 2
    sheet.paste(picture, (x, y))
    draw.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=FAINT)
    _draw_boxes(draw, row.views, None, (x, y), scale)
    for i, view in enumerate(row.views):
        corner, side = _place(i, top)
        resized = Image.fromarray(view.pixels).resize((side, side), Image.Resampling.BICUBIC)
        if view.mask is not None:
            resized = Image.fromarray(_masked(np.asarray(resized), view.mask))
        sheet.paste(resized, corner)
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
    boxes = {}
    for i, view in enumerate(views):
        if view.within == within and (within is None or i >= 2):
            top, left, height, width = (round(side * scale) for side in view.box)
            x, y = corner[0] + left, corner[1] + top
            boxes[i] = (x, y, x + max(width, 2) - 1, y + max(height, 2) - 1)
    for i, box in reversed(boxes.items()):  # global boxes on top
        draw.rectangle((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), outline=PAPER)
        draw.rectangle(box, outline=_colour(i), width=2)
    taken: list[tuple[int, int, int, int]] = []
    for i, box in boxes.items():
        if i >= 2:  # numbers on top of everything, and not on each other
            taken.append(_free_place(box, round(draw.textlength(str(i - 1), _font(10))) + 4, taken))
            draw.rectangle(taken[-1], fill=_colour(i))
            draw.text((taken[-1][0] + 2, taken[-1][1]), str(i - 1), PAPER, _font(10))


def _free_place(
    box: tuple[int, int, int, int], width: int, taken: Sequence[tuple[int, int, int, int]]
) -> tuple[int, int, int, int]:
    """Where a number of this width lies inside its box: at a corner, or else along an edge."""
    left, top, right, bottom = box
    right, bottom = max(right - width + 1, left), max(bottom - TAG_PX + 1, top)
    corners = [(left, top), (right, top), (left, bottom), (right, bottom)]
    edges = [(x, y) for x in range(left, right, 2) for y in (top, bottom)]
    edges += [(x, y) for y in range(top, bottom, 2) for x in (left, right)]
    places = [(x, y, x + width - 1, y + TAG_PX - 1) for x, y in corners + edges]
    return next((place for place in places if not any(_meet(place, t) for t in taken)), places[0])


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _masked(
    pixels: UInt8[np.ndarray, "S S 3"], mask: Bool[np.ndarray, "p p"]
) -> UInt8[np.ndarray, "S S 3"]:
    """Masked patches under a dark veil and light stripes: to be told from any image."""
    place = np.arange(len(pixels))
    patch = place * len(mask) // len(pixels)
    covered = mask[patch[:, None], patch][..., None]
    striped = ((place[:, None] + place) % STRIPE_EVERY_PX == 0)[..., None]
    veiled = (1 - MASK_OPACITY) * pixels + MASK_OPACITY * np.array(MASK)
    return np.where(covered, np.where(striped, STRIPE, veiled), pixels).astype(np.uint8)


def _fitted(image: UInt8[np.ndarray, "H W 3"]) -> tuple[Image.Image, float]:
    scale = CELL_PX / max(image.shape[:2])
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), scale


def _line(
    draw: ImageDraw.ImageDraw,
    y: int,
    text: str,
    colour: tuple[int, int, int],
    size: int,
    indent: int = 0,
) -> None:
    """A line of text, with its middle left out if it is too long for the sheet."""
    font, x = _font(size), MARGIN_PX + indent
    width = draw.im.size[0] - 2 * x
    room = int(width / max(draw.textlength(text, font), 1) * len(text))
    if len(text) > room:
        text = f"{text[: room // 2 - 2]} ... {text[-(room // 2 - 3) :]}"
    draw.text((x, y), text, colour, font)


def _colour(i: int) -> tuple[int, int, int]:
    return COLOURS[min(i, 2)]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
