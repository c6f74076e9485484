"""Where tiles lie, what they keep of their pixels, and that pages hold all they need."""

import base64
import io
import re

import numpy as np
from PIL import Image

from dinojax.pictures.clicks import clickable
from dinojax.pictures.curves import POINTS, chart, charts, curves_of, thinned
from dinojax.pictures.figure import MOST, Figure, Scale, Tile, as_html, draw, fitted
from dinojax.pictures.page import page, table

RNG = np.random.default_rng(0)


def test_a_map_stays_sharp_and_keeps_its_colours():
    colours = RNG.integers(0, 256, (14, 14, 3)).astype(np.uint8)
    figure = Figure("t", [], [("row", [Tile(colours)])], grid=(14, 14))
    found = np.asarray(fitted(Tile(colours), figure))
    np.testing.assert_array_equal(found, colours.repeat(24, 0).repeat(24, 1))
    sheet = np.asarray(draw(figure))
    assert any((sheet[y : y + 336, 28 : 28 + 336] == found).all() for y in range(40, 120))


def test_tiles_have_whole_pixels_per_patch():
    sizes = {
        grid: Figure("", [], [], grid=grid).tile_size for grid in ((14, 14), (112, 112), (4, 7))
    }
    assert sizes == {(14, 14): (336, 336), (112, 112): (448, 448), (4, 7): (192, 336)}


def test_the_mark_frames_its_patch():
    plain = Tile(np.full((8, 8, 3), 90, np.uint8), mark=(2, 5, 8, 8))
    found = np.asarray(fitted(plain, Figure("", [], [], grid=(8, 8))))
    rows, columns = np.nonzero((found != 90).any(-1))
    assert (rows.min(), rows.max()) == (2 * 42 - 3, 3 * 42 + 2)
    assert (columns.min(), columns.max()) == (5 * 42 - 3, 6 * 42 + 2)
    assert (found[2 * 42 : 3 * 42, 5 * 42 : 6 * 42] == 90).all()


def test_many_tiles_go_to_further_lines():
    tile = Tile(np.zeros((2, 2, 3), np.uint8), "a caption that is far too long " * 9)
    figure = Figure("t" * 300, ["fact"], [("row", [tile] * (MOST + 2))], Scale("0", "1"), (2, 2))
    assert [len(tiles) for _, tiles in figure.lines] == [MOST, 2]
    assert [title for title, _ in figure.lines] == ["row", ""]
    sheet = draw(figure)
    assert (np.asarray(sheet)[:, -20:] == 255).all()  # nothing runs over the edge


def test_html_is_one_file_and_escapes_names():
    tile = Tile(RNG.integers(0, 256, (4, 4, 3)).astype(np.uint8), "<b>caption</b>")
    figure = Figure("<title>", ["a & b"], [("<row>", [tile])], Scale("0", "1"), (4, 4))
    text = page("<page>", ["x < y"], [as_html(figure), table(("a",), [["<td>"]])])
    assert "<b>caption" not in text and "&lt;row&gt;" in text and "a &amp; b" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and "http" not in text
    data = re.findall(r'<figure><img src="data:image/png;base64,([^"]+)"', text)[0]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    np.testing.assert_array_equal(pixels[::56, ::56], tile.pixels)


def test_the_page_for_clicks_holds_features_and_script():
    patches = RNG.normal(size=(1, 2, 3, 8)).astype(np.float32)
    image = np.zeros((2, 3, 3), np.uint8)
    text = clickable("t", ["fact"], [("</script><b>", image)], patches, (0, 1, 2))
    assert text.count("</script>") == 1 and '"start": [0, 1, 2]' in text
    assert "function choose" in text and "http" not in text


def test_curves():
    lines = [
        {"step": 1, "loss": 2.0, "lr": None},
        {"step": 2, "loss": 1.0},
        {"step": 2, "knn": 0.5},
    ]
    found = curves_of(lines)
    assert found == {"loss": [(1, 2.0), (2, 1.0)], "knn": [(2, 0.5)]}
    text = charts(found)
    assert text.count("<polyline") == 2 and ">step 2<" in text and text.count("<circle") == 3
    points = re.findall(r'polyline class="curve" points="([^"]+)"', text)[0].split()
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points)
    assert x0 < x1 == 330 - 8 and y0 < y1  # downwards is larger in SVG
    assert ">0.5<" in chart("flat", [(0, 0.5), (5, 0.5)], 5)


def test_long_curves_are_averaged():
    points = [(step, float(step % 2)) for step in range(4 * POINTS)]
    thin = thinned(points)
    assert len(thin) <= POINTS + 1 and thin[-1] == (4 * POINTS - 1, 1.0)
    assert {value for _, value in thin[:-2]} == {0.5}
