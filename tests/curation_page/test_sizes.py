"""Charts of group sizes."""

import re

import numpy as np
import pytest

from dinojax.curation_page.sizes import share_chart, size_chart


def texts(svg):
    return re.findall(r">([^<>]+)</text>", svg)


def heights(svg, kind):
    return [float(v) for v in re.findall(rf'class="{kind}"[^>]*height="([\d.]+)"', svg)]


def test_sizes_in_powers_of_two():
    svg = size_chart("t", np.array([2, 3, 3, 4, 7, 16, 0]))
    assert texts(svg) == ["3", "2", "0", "1", "2", "4", "8", "16", "32"]
    assert size_chart("t", np.array([], np.int64)) == ""


def test_few_named_groups_have_their_records():
    """Those without records before are left out."""
    svg = share_chart("t", np.array([2, 0, 9]), np.array([2, 0, 3]), ["a", "b", "c"])
    assert texts(svg) == [
        "c",
        "9 \N{RIGHTWARDS ARROW} 3",
        "a",
        "2 \N{RIGHTWARDS ARROW} 2",
    ]


@pytest.mark.parametrize("groups", [3, 40, 1000])
def test_many_groups_are_joined(groups):
    """A column is the mean of its groups: of equal ones all are alike, before and after."""
    before, after = np.full(groups, 7), np.full(groups, 2)
    svg = share_chart("t", before, after, [])
    high = heights(svg, "before")
    assert len(high) == min(groups, 40) == len(heights(svg, "after"))
    assert len({*high, *heights(svg, "after")}) == 1
    assert f"{100 / groups:.3g} %" in texts(svg)


def test_the_largest_come_first():
    svg = share_chart("t", np.array([1, 3]), np.array([3, 1]), [])
    assert heights(svg, "before") == heights(svg, "after")[::-1]
    assert heights(svg, "before")[0] == pytest.approx(3 * heights(svg, "before")[1], abs=0.2)
