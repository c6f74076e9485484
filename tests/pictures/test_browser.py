"""The page that answers clicks, in a real browser: its cosines are NumPy's, it fetches nothing.

Needs ``pip install -e '.[browser]'`` and Chromium, of the system or of ``playwright install``.
"""

import re
from typing import Any

import numpy as np
import pytest

from dinojax.pictures.clicks import clickable
from dinojax.pictures.similarity import cosine_map

pytestmark = pytest.mark.browser

YELLOW = [252, 255, 164]


def test_clicks(browser, tmp_path):
    """The chosen patch is yellow in its map, and the darkest colour is the lowest cosine."""
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(2, 6, 8, 24)).astype(np.float32) + 0.5
    images = [(name, np.zeros((96, 128, 3), np.uint8)) for name in ("first", "second")]
    path = tmp_path / "page.html"
    path.write_text(clickable("t", [], images, patches, (0, 2, 3)))
    tab, complaints = browser.new_page(), []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda said: said.type == "error" and complaints.append(said.text))
    tab.on("request", lambda asked: complaints.append(asked.url[:80]))
    tab.goto(f"file://{path}")
    assert said(tab) == (2, 3, "first", low(patches, 0, 2, 3))
    # Canvases: image and map of the first, image and map of the second.
    picture = tab.locator("canvas").nth(2)
    box = picture.bounding_box()
    picture.click(position={"x": box["width"] * 6.5 / 8, "y": box["height"] * 1.5 / 6})
    assert said(tab) == (1, 6, "second", low(patches, 1, 1, 6))
    assert colour(tab, 3, 1, 6) == YELLOW
    cosines = cosine_map(patches, 1, 1, 6)
    image, row, column = np.unravel_index(cosines.argmin(), cosines.shape)
    assert max(colour(tab, 2 * image + 1, row, column)) < 20
    assert [one for one in complaints if not one.startswith(("file:", "data:"))] == []


def low(patches: np.ndarray, *place: int) -> str:
    return f"{cosine_map(patches, *place).min():.2f}"


def said(tab: Any) -> tuple[int, int, str, str]:
    """(row, column, image, lowest cosine) as the page says."""
    pattern = r"row (\d+), column (\d+) of (\w+): black (-?[\d.]+), yellow 1\.00"
    found = re.search(pattern, tab.inner_text("#said"))
    assert found is not None
    return int(found[1]), int(found[2]), found[3], found[4]


def colour(tab: Any, canvas: int, row: int, column: int) -> list[int]:
    """Of the middle of a patch on a canvas."""
    script = """([number, row, column]) => {
      const canvas = document.querySelectorAll("canvas")[number];
      const x = (column + 0.5) * canvas.width / 8, y = (row + 0.5) * canvas.height / 6;
      return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3);
    }"""
    return tab.evaluate(script, [int(canvas), int(row), int(column)])
