"""Principal components as colours: known directions, a fixed basis, and what is foreground."""

import numpy as np
import pytest

from dinojax.pictures.colours import INFERNO, heat
from dinojax.pictures.pca import BACKGROUND, fit_basis, foreground, otsu, to_rgb


def cloud(count: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Samples that vary most along three known directions of eight, and the directions."""
    rng = np.random.default_rng(0)
    directions, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    spread = np.array([5, 3, 2, 0.1, 0.1, 0.1, 0.1, 0.1])
    return rng.normal(size=(count, 8)) * spread @ directions.T + 7, directions[:, :3]


def test_directions_and_ranges():
    x, directions = cloud()
    basis = fit_basis(x)
    overlap = np.abs(basis.components.T @ directions)
    np.testing.assert_allclose(overlap, np.eye(3), atol=0.1)
    assert 0.99 < basis.explained < 1
    projected = (x - x.mean(0)) @ basis.components
    assert ((projected < basis.low).mean(0) < 0.02).all()
    colours = to_rgb(basis, x.reshape(20, 25, 8))
    np.testing.assert_allclose(colours.min((0, 1)), 0)
    np.testing.assert_allclose(colours.max((0, 1)), 255)
    middle = ((basis.low + basis.high) / 2) @ basis.components.T + basis.mean
    assert np.abs(to_rgb(basis, middle[None, None]) - 127.5).max() <= 0.5


def test_signs_follow_the_guide():
    """Whatever way the features are turned, a component rises with brightness."""
    x, directions = cloud()
    brightness = (x - x.mean(0)) @ directions @ [1.0, -1.0, 0.5]
    for sign in (1, -1):
        basis = fit_basis(sign * x, brightness)
        rise = [np.corrcoef((sign * x) @ c, brightness)[0, 1] for c in basis.components.T]
        assert min(rise) > 0


def test_one_basis_gives_equal_features_equal_colours():
    x, _ = cloud()
    basis, patches = fit_basis(x), x[:12].reshape(3, 4, 8)
    larger = np.concatenate([patches, x[100:112].reshape(3, 4, 8) + 3], axis=1)
    np.testing.assert_array_equal(to_rgb(basis, larger)[:, :4], to_rgb(basis, patches))


def test_features_narrower_than_three():
    basis = fit_basis(np.random.default_rng(0).normal(size=(10, 2)))
    assert basis.components.shape == (2, 3) and not basis.components[:, 2].any()
    with pytest.raises(ValueError, match="3 patches have no three directions"):
        fit_basis(np.zeros((3, 8)))


@pytest.mark.parametrize("sign", [1, -1])
def test_foreground_is_what_lies_off_the_borders(sign):
    """Squares of another kind of feature in the middle of two images."""
    rng = np.random.default_rng(1)
    patches = rng.normal(size=(2, 8, 8, 6)) * 0.3
    inside = np.zeros((2, 8, 8), bool)
    inside[0, 2:6, 2:6] = inside[1, 3:6, 1:5] = True
    patches[inside] += 4 * sign
    found = foreground(patches)
    np.testing.assert_array_equal(found, inside)
    colours = to_rgb(fit_basis(patches[found]), patches[0], found[0])
    assert (colours[~found[0]] == BACKGROUND).all() and len(
        np.unique(colours[found[0]], axis=0)
    ) > 1


def test_otsu():
    values = np.concatenate([np.full(90, 1.0), np.full(10, 5.0)]) + np.linspace(0, 0.2, 100)
    assert 1.15 < otsu(values) < 5


def test_heat():
    """Ends, steps between, and beyond; lightness rises all the way."""
    ramp = heat(np.linspace(-1, 3, 11, dtype=np.float32)[None], -1.0, 3.0)
    np.testing.assert_array_equal(ramp[0], INFERNO)
    lightness = heat(np.linspace(0, 1, 200, dtype=np.float32)[None], 0.0, 1.0)[0] @ [
        0.3,
        0.59,
        0.11,
    ]
    assert (np.diff(lightness) > -1).all()
    beyond = heat(np.array([[-5.0, 9.0, np.nan]], np.float32), 0.0, 1.0)[0]
    np.testing.assert_array_equal(beyond, INFERNO[[0, -1, 0]])
    assert heat(np.zeros((2, 2), np.float32), 0.0, 0.0).shape == (2, 2, 3)
