"""Rates at steps worked out by hand."""

import math

import pytest

from dinojax.evaluation.one_cycle import depth_beta1, depth_rate, poly_rate, segmentation_rate


def test_segmentation():
    rate = segmentation_rate(1e-3, 1500, 40_000)
    assert rate(0) == rate(1) == pytest.approx(1e-9)  # 1 - (1 - 1e-6), in float32
    half = 1e-3 * (1 - 0.5 * (1 - 1e-6)) * (1 - 750 / 40_000)
    assert float(rate(751)) == pytest.approx(half, rel=1e-5)
    after = 1e-3 * (1 + math.cos(math.pi * 20_000 / 40_000)) / 2
    assert float(rate(20_000)) == pytest.approx(after, rel=1e-5)
    assert float(rate(40_000)) == pytest.approx(0, abs=1e-12)


def test_poly():
    rate = poly_rate(1e-3, 1500, 40_000)
    assert float(rate(0)) == pytest.approx(1e-9)
    assert float(rate(750)) == pytest.approx(1e-3 * 0.5 * (1 - 750 / 40_000), rel=1e-5)
    assert float(rate(10_000)) == pytest.approx(0.75e-3, rel=1e-5)


def test_depth():
    rate, beta1 = depth_rate(3e-4, 12_800, 38_400), depth_beta1(12_800, 38_400)
    assert float(rate(0)) == pytest.approx(3e-7) and float(beta1(0)) == 0
    # Half of the warm-up: cos(pi / 6) of the cosine over the whole run.
    half = 3e-7 + 3e-4 * (1 + math.cos(math.pi / 6)) / 2 * 0.5
    assert float(rate(6_400)) == pytest.approx(half, rel=1e-5)
    cosine = (1 + math.cos(math.pi * 19_200 / 38_400)) / 2
    low = 3e-4 / 25_000
    assert float(rate(19_199)) == pytest.approx(low + (3e-4 - low) * cosine, rel=1e-5)
    assert float(beta1(19_199)) == pytest.approx(0.9, rel=1e-5)
    assert float(rate(38_399)) == pytest.approx(low, rel=1e-3)
    assert float(beta1(38_399)) == pytest.approx(0.95)
