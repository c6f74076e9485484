"""Charts whose bars are as long as their numbers."""

import re

import pytest

from dinojax.pictures import bars


def measures(svg: str, kind: str, name: str) -> list[float]:
    """Of the bars of a kind."""
    found = re.findall(rf'<rect class="{kind}" [^>]*?\b{name}="([\d.]+)"', svg)
    return [float(value) for value in found]


def test_rows():
    svg = bars.rows("Classes", ["<b>", "a very long name of a class"], [40, 10], [10, 0])
    before, after = measures(svg, "before", "width"), measures(svg, "after", "width")
    assert before[0] == pytest.approx(4 * before[1]) and after == [before[1], 0]
    assert "&lt;b&gt;" in svg and "<b>" not in svg.replace("<b>after</b>", "")
    assert "40 \N{RIGHTWARDS ARROW} 10" in svg
    assert "\N{HORIZONTAL ELLIPSIS}name of a class<" in svg  # its end, and all of it in the title
    assert "<title>a very long name of a class</title>" in svg
    one = bars.rows("Records", ["x"], [1234567])
    assert measures(one, "one", "width") and "1,234,567<" in one and "before" not in one


def test_histogram():
    svg = bars.histogram("Sizes", [1, 2, 4, 8], [3, 0, 12])
    high = measures(svg, "one", "height")
    assert high[2] == pytest.approx(4 * high[0], abs=0.2) and high[1] == 0
    assert re.findall(r">([^<>]+)</text>", svg) == ["3", "0", "12", "1", "2", "4", "8"]
    left = measures(svg, "one", "x")
    assert left[1] - left[0] == pytest.approx(left[2] - left[1], abs=0.2)


def test_a_long_histogram_has_every_second_number():
    texts = re.findall(r">([^<>]+)</text>", bars.histogram("", [2**n for n in range(21)], [1] * 20))
    assert len(texts) == 10 + 11 and texts[-1] == "1048k"


def test_shares():
    svg = bars.shares("Clusters", ("largest", "smallest"), [60.0, 40.0], [50.0, 30.0])
    before, after = measures(svg, "before", "height"), measures(svg, "after", "height")
    assert [*before, *after] == pytest.approx(
        [before[0] * x for x in (1, 2 / 3, 5 / 6, 0.5)], abs=0.1
    )
    assert "60 %" in svg and "largest" in svg and "smallest" in svg


def test_numbers_and_names():
    given = [7, 9_999, 10_000, 131_072, 25_000_000, 10**10]
    assert [bars.compact(n) for n in given] == ["7", "9999", "10k", "131k", "25M", "10G"]
    assert bars.shortened("abcdef", 6) == "abcdef"
    assert bars.shortened("abcdefg", 6) == "\N{HORIZONTAL ELLIPSIS}cdefg"


def test_nothing_to_draw():
    assert "<rect" not in bars.rows("x", [], [], [])
    assert measures(bars.rows("x", ["a"], [0]), "one", "width") == [0]
