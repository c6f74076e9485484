"""Small pictures of records in a page: tiles of one size, whatever the images' shapes.

An image keeps its shape inside its tile, so that a copy that was cropped shows. One that cannot be
decoded leaves a tile that says why.
"""

import base64
import html
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from dinojax.data.decode import read_image
from dinojax.data.ids import find
from dinojax.data.reading import read_record
from dinojax.data.source import Source
from dinojax.pictures.bars import shortened
from dinojax.pictures.images import shown

ABSENT, AMBIGUOUS = "no source has this id", "several sources have this id"
"""Causes for which there is no picture."""
QUALITY = 80
"""Of JPEG: about 5 kB for a photograph of 112 px."""
ID_LETTERS = 32
"""Of an id that are shown; all of it is there when pointed at."""


@dataclass(frozen=True)
class Thumbnail:
    """What is seen of a record: a JPEG, or why there is none."""

    jpeg: bytes | None
    cause: str = ""


@dataclass(frozen=True)
class Tile:
    """A place for a thumbnail.

    Attributes:
        of: which source the id is of, a key of what `as_html` is given.
        words: a line under it, above the id.
        mark: a word, such as "stays", of a tile with a frame.
    """

    id: str
    words: str = ""
    of: str = "pool"
    mark: str = ""


def style(tile_px: int) -> str:
    """Of tiles, and of groups of them."""
    return f"""
:root {{ --tile: {tile_px}px; }}
@media (max-width: 600px) {{ :root {{ --tile: min({tile_px}px, calc((100vw - 5rem) / 3)); }} }}
.groups {{ display: flex; flex-wrap: wrap; gap: 12px; margin: .5rem 0 1rem; }}
.group {{ border: 1px solid var(--line); border-radius: 6px; padding: 8px; max-width: 100%;
  box-sizing: border-box; }}
.group h4 {{ margin: 0 0 6px; font-size: .82rem; font-weight: 600; overflow-wrap: anywhere; }}
.tiles {{ display: flex; flex-wrap: wrap; gap: 8px; }}
.tile {{ width: var(--tile); }}
.tile img, .tile .gap {{ width: var(--tile); height: var(--tile); object-fit: contain;
  background: var(--line); border-radius: 3px; }}
.tile.marked img, .tile.marked .gap {{ outline: 3px solid var(--accent); }}
.tile .gap {{ display: flex; align-items: safe center; font-size: .7rem; line-height: 1.25;
  overflow: hidden; overflow-wrap: anywhere; color: var(--faint); padding: 6px;
  box-sizing: border-box; }}
.tile figcaption {{ font-size: .74rem; line-height: 1.3; margin-top: 5px;
  overflow-wrap: anywhere; }}
.tile figcaption b {{ color: var(--accent); }} .tile figcaption span {{ color: var(--ink); }}
"""


def read_thumbnails(
    sources: Sequence[Source], ids: Collection[str], tile_px: int, channels: int = 3
) -> Iterator[tuple[str, Thumbnail]]:
    """Of these ids, each with its own. No other record is read.

    An id that several of the sources have, and one that none has, gets no picture: either could be
    another image.

    Raises:
        dinojax.data.threads.StorageError: the storage fails.
    """
    places = [find(source, ids) for source in sources]
    for id in ids:
        having = [number for number, place in enumerate(places) if id in place]
        if len(having) != 1:
            yield id, Thumbnail(None, AMBIGUOUS if having else ABSENT)
            continue
        yield id, _read(sources[having[0]], places[having[0]][id], tile_px, channels)


def _read(source: Source, place: int, tile_px: int, channels: int) -> Thumbnail:
    try:
        pixels = shown(read_image(read_record(source, place), tile_px, channels))
    except (ValueError, OSError) as error:
        id = source.record_id(place)
        return Thumbnail(None, str(error).removeprefix(f"record {id!r} "))  # it stands below
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return Thumbnail(buffer.getvalue())


def group(title: str, tiles: Sequence[Tile], found: Mapping[str, Mapping[str, Thumbnail]]) -> str:
    """Tiles that belong together, in HTML.

    Args:
        found: thumbnails by id, by what `Tile.of` says.
    """
    drawn = "".join(as_html(tile, found[tile.of][tile.id]) for tile in tiles)
    head = f"<h4>{html.escape(title)}</h4>" if title else ""
    return f'<div class="group">{head}<div class="tiles">{drawn}</div></div>'


def as_html(tile: Tile, thumbnail: Thumbnail) -> str:
    """One tile."""
    id = html.escape(tile.id)
    if thumbnail.jpeg is None:
        cause = html.escape(thumbnail.cause)
        picture = f'<div class="gap" title="{cause}">{cause}</div>'
    else:
        data = base64.b64encode(thumbnail.jpeg).decode()
        picture = f'<img src="data:image/jpeg;base64,{data}" alt="{id}">'
    kind = "tile marked" if tile.mark else "tile"
    words = [f"<b>{html.escape(tile.mark)}</b>"] if tile.mark else []
    words += [f"<span>{html.escape(tile.words)}</span>"] if tile.words else []
    line = f"{' '.join(words)}<br>" if words else ""
    name = html.escape(shortened(tile.id, ID_LETTERS))
    return (
        f'<figure class="{kind}">{picture}<figcaption title="{id}">{line}{name}</figcaption>'
        "</figure>"
    )
