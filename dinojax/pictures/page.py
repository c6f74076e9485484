"""A page that is one file: style, pictures and script inside, nothing fetched."""

import html
from collections.abc import Sequence

STYLE = """
:root { color-scheme: light dark; --ink: #1e2228; --faint: #6a7078; --paper: #fff; --line: #e2e4e8;
  --accent: #2668c4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --faint: #9aa2ac; --paper: #15181c;
  --line: #2c3138; --accent: #7fb0ff; } }
body { margin: 0 auto; padding: 2rem; max-width: 1500px; font: 15px/1.45 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; }
h3 { font-size: .9rem; margin: 1rem 0 .3rem; font-weight: 600; }
.fact, figcaption, .scale { color: var(--faint); font-size: .85rem; margin: .1rem 0; }
.row { display: flex; flex-wrap: wrap; gap: 12px; }
figure { margin: 0; flex: none; } img { display: block; }
.scale { display: flex; align-items: center; gap: 8px; }
table { border-collapse: collapse; font-size: .88rem; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font-size: .85rem; overflow-wrap: anywhere; }
@media (max-width: 600px) { body { padding: 1rem; } }
"""


def page(title: str, facts: Sequence[str], sections: Sequence[str], extra_style: str = "") -> str:
    """The text of a file, in UTF-8.

    Args:
        facts: lines under the title, as plain text.
        sections: in HTML.
    """
    head = html.escape(title)
    lines = "".join(f'<p class="fact">{html.escape(fact)}</p>' for fact in facts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{head}</title><link rel="icon" href="data:,">'
        f"<style>{STYLE}{extra_style}</style></head>\n"
        f"<body><h1>{head}</h1>{lines}\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of plain text; the columns `numbers` are set to the right."""

    def cell(name: str, place: int, text: str) -> str:
        kind = ' class="number"' if place in numbers else ""
        return f"<{name}{kind}>{html.escape(text)}</{name}>"

    def line(name: str, texts: Sequence[str]) -> str:
        cells = (cell(name, place, text) for place, text in enumerate(texts))
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="wide"><table>{line("th", head)}{body}</table></div>'
