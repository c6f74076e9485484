"""Bars as SVG, which is text inside the page and takes its colours: sizes, and how they changed.

One series is drawn alone, two as before (grey) and after (coloured).
"""

import html
from collections.abc import Sequence

WIDTH, HEIGHT = 340, 130
NAME_PX, VALUE_PX, ROW_PX = 104, 92, 20
"""Of a row: its name, its numbers, its height."""
LEFT, TOP, BOTTOM = 44, 16, 20
"""Room around columns."""
LABELLED = 12
"""Columns at most that have their names below and numbers above."""
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


def columns(title: str, names: Sequence[str], axis: tuple[str, str], *series: Values) -> str:
    """A column per name; of many, the names are left out and `axis` says what the ends are."""
    most, base = _most(series), HEIGHT - BOTTOM
    few = len(names) <= LABELLED
    step = (WIDTH - LEFT) / max(len(names), 1)
    drawn = [f'<path class="axis" d="M{LEFT},{TOP}V{base}H{WIDTH}"/>']
    for number, (kind, values) in enumerate(zip(_kinds(series), series, strict=True)):
        inset = step * (0.1 + 0.16 * number)
        for place, value in enumerate(values):
            high = (base - TOP) * value / most
            drawn.append(
                f'<rect class="{kind}" x="{LEFT + place * step + inset:.1f}" '
                f'y="{base - high:.1f}" width="{step - 2 * inset:.1f}" height="{high:.1f}"/>'
            )
            if few and len(series) == 1:
                middle = LEFT + (place + 0.5) * step
                drawn.append(
                    f'<text x="{middle:.1f}" y="{base - high - 4:.1f}" text-anchor="middle">'
                    f"{value:,}</text>"
                )
    if few:
        drawn += [
            f'<text x="{LEFT + (place + 0.5) * step:.1f}" y="{HEIGHT - 6}" text-anchor="middle">'
            f"{html.escape(name)}</text>"
            for place, name in enumerate(names)
        ]
    else:
        first, last = map(html.escape, axis)
        drawn.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">{first}</text>')
        drawn.append(f'<text x="{WIDTH}" y="{HEIGHT - 6}" text-anchor="end">{last}</text>')
    if not few or len(series) > 1:
        text = f"{most:,}" if isinstance(most, int) else f"{most:.3g}"
        drawn.append(f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{text}</text>')
    return _figure(title, len(series), HEIGHT, drawn)


def shortened(text: str, letters: int) -> str:
    """Its end, which tells names such as paths apart."""
    return text if len(text) <= letters else f"\N{HORIZONTAL ELLIPSIS}{text[1 - letters :]}"


def _kinds(series: Sequence[Values]) -> tuple[str, ...]:
    return ("one",) if len(series) == 1 else ("before", "after")


def _most(series: Sequence[Values]) -> float | int:
    return max((value for values in series for value in values), default=1) or 1


def _figure(title: str, series: int, height: int, drawn: Sequence[str]) -> str:
    key = ' <span class="key">before, <b>after</b></span>' if series == 2 else ""
    name = html.escape(title)
    return (
        f'<figure><figcaption>{name}{key}</figcaption><svg width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}">{"".join(drawn)}</svg>'
        "</figure>"
    )
