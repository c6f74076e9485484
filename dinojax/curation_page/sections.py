"""What a section of the page shows, before any image is read."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dinojax.pictures.thumbnails import Thumbnail, Tile, group


@dataclass(frozen=True)
class Group:
    """Images that belong together."""

    title: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Sheet:
    """Groups under a title, and how to read them."""

    title: str
    fact: str
    groups: Sequence[Group]


@dataclass(frozen=True)
class Section:
    """Sheets, and parts that are HTML already."""

    title: str
    parts: Sequence[str | Sheet]


def wanted(sections: Iterable[Section]) -> dict[str, list[str]]:
    """Ids of which thumbnails are shown, by `Tile.of`; each once, in the order of the page."""
    found: dict[str, dict[str, None]] = {}
    for section in sections:
        for sheet in section.parts:
            if isinstance(sheet, Sheet):
                for tile in (tile for one in sheet.groups for tile in one.tiles):
                    found.setdefault(tile.of, {})[tile.id] = None
    return {of: list(ids) for of, ids in found.items()}


def as_html(section: Section, found: Mapping[str, Mapping[str, Thumbnail]]) -> str:
    """The section with its thumbnails; sheets without groups are left out."""
    parts = []
    for part in section.parts:
        if isinstance(part, str):
            parts.append(part)
        elif part.groups:
            groups = "".join(group(one.title, one.tiles, found) for one in part.groups)
            parts.append(
                f"<h3>{html.escape(part.title)}</h3>{fact(part.fact)}"
                f'<div class="groups">{groups}</div>'
            )
    return f"<section><h2>{html.escape(section.title)}</h2>{''.join(parts)}</section>"


def fact(text: str) -> str:
    """A line of explanation."""
    return f'<p class="fact">{html.escape(text)}</p>' if text else ""


def charts(*drawn: str) -> str:
    """Charts side by side."""
    return f'<div class="charts">{"".join(drawn)}</div>'


def times_words(times: int) -> str:
    """How often a record is taken, where that is more than once."""
    return f"\N{MULTIPLICATION SIGN}{times}" if times > 1 else ""


def images_words(count: int, shown: int | None = None) -> str:
    """As ``1 image``, ``3 images`` or ``8 of 120 images``."""
    of = f"{shown:,} of " if shown is not None and shown < count else ""
    return f"{of}{count:,} image{'s' * (count != 1)}"
