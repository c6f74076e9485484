"""RankMe and alpha-ReQ on spectra that are known."""

import math

import numpy as np
import pytest

from dinojax.evaluation.spectrum import EPSILON, alpha_req, rankme

RNG = np.random.default_rng(0)


def with_variances(rows: int, variances: np.ndarray) -> np.ndarray:
    """Centred features with these squared singular values, in random directions."""
    noise = RNG.normal(size=(rows, len(variances)))
    left = np.linalg.qr(noise - noise.mean(axis=0))[0]
    right = np.linalg.qr(RNG.normal(size=(len(variances),) * 2))[0]
    return left * np.sqrt(variances) @ right


@pytest.mark.parametrize("shape", [(40, 9), (9, 40)])
def test_rankme_is_the_papers_formula(shape):
    features = RNG.normal(size=shape) * RNG.uniform(0.1, 3, shape[1]) + 1
    values = np.linalg.svd(features, compute_uv=False)
    shares = values / np.abs(values).sum() + EPSILON
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert rankme(features.astype(np.float32)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("used", [1, 3, 8])
def test_rankme_counts_equal_directions(used):
    variances = np.where(np.arange(8) < used, 2.0, 0.0)
    assert rankme(with_variances(30, variances)) == pytest.approx(used, rel=1e-4)


def test_rankme_of_features_that_are_all_alike():
    alike = np.repeat(RNG.normal(size=(1, 64)), 50, axis=0)
    assert rankme(alike.astype(np.float32)) == pytest.approx(1, abs=1e-3)
    assert rankme(np.zeros((5, 4))) == pytest.approx(1, abs=1e-4)
    near = alike + 1e-4 * RNG.normal(size=alike.shape)
    assert 1 < rankme(near.astype(np.float32)) < 2


@pytest.mark.parametrize("measure", [rankme, alpha_req])
def test_neither_units_nor_axes_nor_order_matter(measure):
    features = with_variances(90, np.arange(1.0, 17) ** -1.3) + 0.01
    turned = np.linalg.qr(RNG.normal(size=(16, 16)))[0]
    for other in (7 * features, features @ turned, RNG.permutation(features)):
        assert measure(other) == pytest.approx(measure(features), rel=1e-6)
    twice = np.concatenate([features, features])
    assert rankme(twice) == pytest.approx(rankme(features), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
@pytest.mark.parametrize(("rows", "width"), [(200, 64), (65, 128)])
def test_alpha_of_a_power_law(alpha, rows, width):
    count = min(rows - 1, width)
    variances = np.zeros(width)[:count] + np.arange(1.0, count + 1) ** -alpha
    features = with_variances(rows, variances)
    assert alpha_req(features + 3) == pytest.approx(alpha, rel=1e-6)  # it is of the centred ones


def test_alpha_leaves_both_ends_out():
    variances = np.arange(1.0, 65) ** -1.2
    variances[:2] *= 50  # 64 // 32 ranks
    variances[32:] *= 1e-3
    assert alpha_req(with_variances(200, variances)) == pytest.approx(1.2, rel=1e-6)


def test_alpha_weighs_octaves_alike():
    variances = np.arange(1.0, 65) ** -1.0 * np.exp(RNG.normal(0, 0.3, 64))
    variances = np.sort(variances)[::-1]
    ranks = np.arange(3, 33)
    x, y, w = np.log(ranks), np.log(variances[ranks - 1]), 1 / ranks
    mean_x, mean_y = (w * x).sum() / w.sum(), (w * y).sum() / w.sum()
    slope = (w * (x - mean_x) * (y - mean_y)).sum() / (w * (x - mean_x) ** 2).sum()
    assert alpha_req(with_variances(200, variances)) == pytest.approx(-slope, rel=1e-5)


def test_alpha_needs_directions():
    assert math.isnan(alpha_req(np.ones((40, 16))))
    assert math.isnan(alpha_req(RNG.normal(size=(4, 16))))
