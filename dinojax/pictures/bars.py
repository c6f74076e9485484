"""Bars as SVG, which is text inside the page and takes its colours: sizes, and how they changed.

One series is drawn alone, two as before (grey) and after (coloured).
"""

import html
from collections.abc import Sequence

WIDTH, HEIGHT = 340, 130
NAME_PX, VALUE_PX, ROW_PX = 104, 92, 20
"""Of a row: its name, its numbers, its height."""
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 16, 20
"""Room around columns."""
LABELLED = 12
"""Columns at most that all have their numbers; of more each second one has."""
NAME_LETTERS = 16
STYLE = """
.charts { display: flex; flex-wrap: wrap; gap: 18px 26px; margin: .6rem 0; }
.charts figcaption { color: var(--ink); margin-bottom: 4px; }
.charts svg { max-width: 100%; height: auto; display: block; }
.charts .key { color: var(--faint); } .charts .key b { color: var(--accent); font-weight: 600; }
svg text { font: 11px system-ui, sans-serif; fill: var(--faint); } svg .name { fill: var(--ink); }
svg .axis { stroke: var(--line); fill: none; } svg .one { fill: var(--accent); }
svg .before { fill: var(--faint); opacity: .45; } svg .after { fill: var(--accent); }
"""

Number = float | int
Values = Sequence[float] | Sequence[int]


def rows(title: str, names: Sequence[str], *series: Values) -> str:
    """A bar per name, to the right, with its numbers; for names that should be read."""
    most, room = _most(series), WIDTH - NAME_PX - VALUE_PX
    thick = (ROW_PX - 6) // len(series)
    drawn = []
    for place, (name, *values) in enumerate(zip(names, *series, strict=True)):
        top = place * ROW_PX + 3
        drawn.append(
            f'<text class="name" x="{NAME_PX - 8}" y="{top + 11}" text-anchor="end">'
            f"<title>{html.escape(name)}</title>{html.escape(shortened(name, NAME_LETTERS))}</text>"
        )
        for number, (kind, value) in enumerate(zip(_kinds(series), values, strict=True)):
            drawn.append(
                f'<rect class="{kind}" x="{NAME_PX}" y="{top + number * thick}" '
                f'width="{room * value / most:.1f}" height="{thick}"/>'
            )
        x = NAME_PX + room * max(values) / most + 6
        text = " \N{RIGHTWARDS ARROW} ".join(f"{value:,}" for value in values)
        drawn.append(f'<text x="{x:.1f}" y="{top + 11}">{text}</text>')
    return _figure(title, len(series), len(names) * ROW_PX + 4, drawn)


def histogram(title: str, edges: Sequence[int], counts: Sequence[int]) -> str:
    """How many things lie between each two of the `edges`, which stand below."""
    each = 1 if len(counts) <= LABELLED else 2
    drawn = _columns(counts)
    for place, count in list(enumerate(counts))[::each]:
        x, y = _x(place + 0.5, len(counts)), HEIGHT - BOTTOM - _high(count, max(counts, default=1))
        drawn.append(_text(x, y - 4, compact(count)))
    for place, edge in list(enumerate(edges))[::each]:
        drawn.append(_text(_x(place, len(counts)), HEIGHT - 6, compact(edge)))
    return _figure(title, 1, HEIGHT, drawn)


def shares(title: str, ends: tuple[str, str], before: Values, after: Values) -> str:
    """Columns in per cent, two each; `ends` says what the first and the last one are."""
    drawn = _columns(before, after)
    drawn.append(_text(LEFT, HEIGHT - 6, ends[0], "start"))
    drawn.append(_text(WIDTH - RIGHT, HEIGHT - 6, ends[1], "end"))
    drawn.append(_text(LEFT - 6, TOP + 8, f"{max(*before, *after):.3g} %", "end"))
    return _figure(title, 2, HEIGHT, drawn)


def _columns(*series: Values) -> list[str]:
    most, base, count = _most(series), HEIGHT - BOTTOM, len(series[0])
    drawn = [f'<path class="axis" d="M{LEFT},{TOP}V{base}H{WIDTH - RIGHT}"/>']
    for number, (kind, values) in enumerate(zip(_kinds(series), series, strict=True)):
        inset = 0.06 + 0.2 * number
        for place, value in enumerate(values):
            left, right = _x(place + inset, count), _x(place + 1 - inset, count)
            high = _high(value, most)
            drawn.append(
                f'<rect class="{kind}" x="{left:.1f}" y="{base - high:.1f}" '
                f'width="{right - left:.1f}" height="{high:.1f}"/>'
            )
    return drawn


def _x(place: Number, count: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * place / max(count, 1)


def _high(value: Number, most: Number) -> float:
    return (HEIGHT - TOP - BOTTOM) * value / most


def _text(x: Number, y: Number, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def compact(number: int) -> str:
    """In four letters or so: ``131k``."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= 10 * size:
            return f"{number // size}{letter}"
    return str(number)


def shortened(text: str, letters: int) -> str:
    """Its end, which tells names such as paths apart."""
    return text if len(text) <= letters else f"\N{HORIZONTAL ELLIPSIS}{text[1 - letters :]}"


def _kinds(series: Sequence[Values]) -> tuple[str, ...]:
    return ("one",) if len(series) == 1 else ("before", "after")


def _most(series: Sequence[Values]) -> Number:
    return max((value for values in series for value in values), default=1) or 1


def _figure(title: str, series: int, height: int, drawn: Sequence[str]) -> str:
    key = ' <span class="key">before, <b>after</b></span>' if series == 2 else ""
    name = html.escape(title)
    return (
        f'<figure><figcaption>{name}{key}</figcaption><svg width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}">{"".join(drawn)}</svg>'
        "</figure>"
    )
