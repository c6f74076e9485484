"""A figure: rows of captioned tiles under a title, drawn with Pillow or written as HTML."""

import base64
import dataclasses
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from dinojax.pictures.colours import heat

TILE_PX, PATCH_PX = 336, 4
"""Longer side of a tile, filled by whole pixels per patch: 24 for each of 14 patches, 6 of 56. And
the fewest of these: 112 patches are 448 px."""
PAGE_TILE_PX = 224
"""The same on a page, which has several figures."""
GAP_PX, MARGIN_PX, LINE_PX = 12, 28, 18
PAPER, INK, FAINT = (255, 255, 255), (30, 34, 40), (112, 118, 126)
MOST = 8
"""Tiles side by side."""
BAR_PX = (220, 10)
"""Size of the colour scale."""

Pixels = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Tile:
    """A picture and a few words under it.

    Attributes:
        pixels: an image, or a map with a pixel per patch.
        mark: (row, column, rows, columns): a patch to frame, of a grid of so many.
    """

    pixels: Pixels
    caption: str = ""
    mark: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Scale:
    """What the colours of maps mean."""

    low: str
    high: str


@dataclass(frozen=True)
class Figure:
    """Rows of tiles.

    Attributes:
        facts: lines under the title: what model, what images, how to read it.
        rows: (title, tiles).
    """

    title: str
    facts: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Tile]]]
    scale: Scale | None = None
    grid: tuple[int, int] = field(default=(1, 1))
    """Patches per image, which tiles take whole pixels for."""
    tile_px: int = TILE_PX

    @property
    def lines(self) -> list[tuple[str, Sequence[Tile]]]:
        """The rows, those with many tiles cut into several."""
        return [
            (title if not first else "", tiles[first : first + MOST])
            for title, tiles in self.rows
            for first in range(0, len(tiles), MOST)
        ]

    @property
    def tile_size(self) -> tuple[int, int]:
        """(height, width) of each tile in pixels."""
        per_patch = max(self.tile_px // max(self.grid), PATCH_PX)
        return self.grid[0] * per_patch, self.grid[1] * per_patch


def fitted(tile: Tile, figure: Figure) -> Image.Image:
    """A tile at a figure's size: maps in sharp blocks, images smooth, the mark on top."""
    picture, (height, width) = Image.fromarray(tile.pixels), figure.tile_size
    if picture.size != (width, height):
        is_map = tile.pixels.shape[:2] == figure.grid
        method = Image.Resampling.NEAREST if is_map else Image.Resampling.LANCZOS
        picture = picture.resize((width, height), method)
    if tile.mark is not None:
        row, column, rows, columns = tile.mark
        down, right = height / rows, width / columns
        box = [column * right, row * down, (column + 1) * right - 1, (row + 1) * down - 1]
        draw = ImageDraw.Draw(picture)
        for grow, colour in ((3, (0, 0, 0)), (2, (255, 255, 255)), (1, (255, 60, 60))):
            draw.rectangle(
                (box[0] - grow, box[1] - grow, box[2] + grow, box[3] + grow), outline=colour
            )
    return picture


def draw(figure: Figure) -> Image.Image:
    """The figure as one picture."""
    height, width = figure.tile_size
    columns = max(len(tiles) for _, tiles in figure.lines)
    head = MARGIN_PX + LINE_PX * (2 + len(figure.facts)) + (LINE_PX + GAP_PX if figure.scale else 0)
    row_px = LINE_PX + 4 + height + LINE_PX + GAP_PX
    sheet_px = (
        max(2 * MARGIN_PX + columns * (width + GAP_PX) - GAP_PX, 640),
        head + row_px * len(figure.lines) + MARGIN_PX - GAP_PX,
    )
    sheet = Image.new("RGB", sheet_px, PAPER)
    canvas = ImageDraw.Draw(sheet)
    room = sheet_px[0] - 2 * MARGIN_PX
    _text(canvas, (MARGIN_PX, MARGIN_PX - 8), figure.title, INK, 17, room)
    for number, fact in enumerate(figure.facts):
        place = (MARGIN_PX, MARGIN_PX + 16 + number * LINE_PX)
        _text(canvas, place, fact, FAINT, 12, room)
    if figure.scale is not None:
        _draw_scale(sheet, head - LINE_PX - GAP_PX, figure.scale)
    for number, (title, tiles) in enumerate(figure.lines):
        top = head + number * row_px
        _text(canvas, (MARGIN_PX, top), title, INK, 12, room)
        for column, tile in enumerate(tiles):
            left = MARGIN_PX + column * (width + GAP_PX)
            sheet.paste(fitted(tile, figure), (left, top + LINE_PX + 4))
            place = (left, top + LINE_PX + 6 + height)
            _text(canvas, place, tile.caption, FAINT, 12, width)
    return sheet


def _draw_scale(sheet: Image.Image, top: int, scale: Scale) -> None:
    canvas, x = ImageDraw.Draw(sheet), MARGIN_PX
    canvas.text((x, top), scale.low, INK, _font(12))
    x += round(canvas.textlength(scale.low, _font(12))) + 8
    sheet.paste(Image.fromarray(bar()), (x, top + 3))
    canvas.text((x + BAR_PX[0] + 8, top), scale.high, INK, _font(12))


def bar() -> Pixels:
    """The colour scale from low to high."""
    return heat(np.tile(np.linspace(0, 1, BAR_PX[0], dtype=np.float32), (BAR_PX[1], 1)), 0.0, 1.0)


def _text(
    canvas: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    colour: tuple[int, int, int],
    size: int,
    room: int,
) -> None:
    """A line, with its middle left out where it is too long."""
    font = _font(size)
    while len(text) > 8 and canvas.textlength(text, font) > room:
        middle = len(text) // 2
        text = f"{text[: middle - 3].rstrip()}\N{HORIZONTAL ELLIPSIS}{text[middle + 3 :].lstrip()}"
    canvas.text(place, text, colour, font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def png(picture: Image.Image) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def data_url(picture: Image.Image) -> str:
    """A picture inside a page."""
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"


def as_html(figure: Figure) -> str:
    """The same figure, smaller, as a section of a page (`dinojax.pictures.page`)."""
    figure = dataclasses.replace(figure, tile_px=PAGE_TILE_PX)
    size = figure.tile_size
    lines = [f"<h2>{html.escape(figure.title)}</h2>"]
    lines += [f'<p class="fact">{html.escape(fact)}</p>' for fact in figure.facts]
    if figure.scale is not None:
        low, high = html.escape(figure.scale.low), html.escape(figure.scale.high)
        source = data_url(Image.fromarray(bar()))
        lines.append(f'<p class="scale">{low} <img src="{source}" alt=""> {high}</p>')
    for title, tiles in figure.rows:
        lines.append(f'<h3>{html.escape(title)}</h3><div class="row">')
        for tile in tiles:
            source, caption = data_url(fitted(tile, figure)), html.escape(tile.caption)
            lines.append(
                f'<figure><img src="{source}" width="{size[1]}" height="{size[0]}" '
                f'alt="{caption}"><figcaption>{caption}</figcaption></figure>'
            )
        lines.append("</div>")
    return f"<section>{''.join(lines)}</section>"
