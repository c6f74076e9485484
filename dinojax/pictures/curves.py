"""Curves of a run's metrics as SVG, which is text inside the page and takes its colours."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WIDTH, HEIGHT = 330, 150
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 10, 20
"""Room for the numbers at the axes."""
POINTS = 400
"""Most points of a curve: more are averaged in pairs, triples and so on."""
STYLE = """
.curves { display: flex; flex-wrap: wrap; gap: 18px 26px; }
.curves figcaption { color: var(--ink); } .curves .last { color: var(--faint); }
svg text { font: 11px system-ui, sans-serif; fill: var(--faint); }
svg .axis { stroke: var(--line); fill: none; } svg .curve { stroke: var(--accent); fill: none;
  stroke-width: 1.5; } svg .dot { fill: var(--accent); }
"""


def curves_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by metric, from the lines of ``metrics.jsonl``; without what is not finite."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name != "step" and value is not None:
                found.setdefault(name, []).append((int(line["step"]), float(value)))
    return found


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `POINTS`, each the mean of as many neighbours; the last one stays as it is."""
    size = math.ceil(len(points) / POINTS)
    if size == 1:
        return [(float(step), value) for step, value in points]
    parts = [points[i : i + size] for i in range(0, len(points) - 1, size)]
    means = [tuple(np.mean(part, axis=0).tolist()) for part in parts]
    return [*means, (float(points[-1][0]), points[-1][1])]


def chart(name: str, points: Sequence[tuple[int, float]], last_step: int) -> str:
    """One curve with its range, from step 0 to `last_step`."""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    room = (high - low) or abs(high) or 1.0
    bottom, top = low - 0.05 * room, high + 0.05 * room

    def place(step: int | float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / max(last_step, 1)
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - bottom) / (top - bottom)
        return f"{x:.1f},{y:.1f}"

    path = " ".join(place(*point) for point in thinned(points))
    dots = ""
    if len(points) <= 20:  # of a metric that is measured now and then, where it was
        at = (place(*point).split(",") for point in points)
        dots = "".join(f'<circle class="dot" cx="{x}" cy="{y}" r="2.5"/>' for x, y in at)
    base = HEIGHT - BOTTOM
    labels = "".join(
        f'<text x="{LEFT - 6}" y="{float(place(0, value).split(",")[1]) + 4:.1f}" '
        f'text-anchor="end">{value:.4g}</text>'
        for value in ((low, high) if high > low else (low,))
    )
    title = html.escape(name)
    return (
        f'<figure><figcaption>{title} <span class="last">{values[-1]:.5g}</span></figcaption>'
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}"><path class="axis" d="M{LEFT},{TOP}V{base}H{WIDTH - RIGHT}"/>'
        f'<polyline class="curve" points="{path}"/>{dots}{labels}'
        f'<text x="{LEFT}" y="{HEIGHT - 5}">0</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">step {last_step:,}</text>'
        "</svg></figure>"
    )


def charts(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """All curves, side by side."""
    last = max((points[-1][0] for points in curves.values()), default=0)
    drawn = "".join(chart(name, points, last) for name, points in curves.items())
    return f'<div class="curves">{drawn}</div>'
