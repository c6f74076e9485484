"""Resized grids against torch's numbers and against a loop over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.kernels.resize import METHODS, resize_grid, resize_weights

RNG = np.random.default_rng(0)


def pixel_weight(distance: float, method: str, a: float) -> float:
    """The textbook filters (Keys 1981, equation 4, and the triangle)."""
    x = abs(distance)
    if method == "bilinear":
        return max(0.0, 1 - x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def oracle(line: np.ndarray, out: int, method: str, antialias: bool) -> np.ndarray:
    """One axis: without antialiasing four taps around each place, the border pixel repeated."""
    scale = len(line) / out
    values = []
    for i in range(out):
        centre = (i + 0.5) * scale - 0.5
        if antialias:
            stretch = max(scale, 1.0)
            weights = [pixel_weight((j - centre) / stretch, method, -0.5) for j in range(len(line))]
            values.append(np.dot(weights, line) / sum(weights))
        else:
            first = int(np.floor(centre)) - 1
            taps = range(first, first + 4)
            weights = [pixel_weight(j - centre, method, -0.75) for j in taps]
            values.append(np.dot(weights, [line[min(max(j, 0), len(line) - 1)] for j in taps]))
    return np.array(values)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("size", "out"), [(12, 6), (9, 6), (7, 5), (3, 3), (4, 9), (1, 4), (5, 1)])
def test_weights(size, out, method, antialias):
    weights = resize_weights(size, out, method=method, antialias=antialias)
    assert weights.shape == (out, size)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    line = RNG.normal(size=size)
    np.testing.assert_allclose(weights @ line, oracle(line, out, method, antialias), atol=1e-12)


def test_torch_bicubic():
    """Recorded from torch: 2x2 of ``sin(0.9 j)`` on 4x4; taps of reductions by 2 and by 1.5."""
    grid = np.sin(0.9 * np.arange(32)).reshape(1, 2, 4, 4).transpose(0, 2, 3, 1)
    found = np.asarray(resize_grid(jnp.asarray(grid, jnp.float32), (2, 2))).transpose(0, 3, 1, 2)
    expected = [-0.3336436, 0.1532440, 0.1499445, 0.2357503]
    expected += [0.1314488, 0.2498545, 0.2523175, -0.2935897]
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-6)
    half = resize_weights(8, 4, method="bicubic", antialias=False)
    np.testing.assert_allclose(half[1, 1:5], [-0.09375, 0.59375, 0.59375, -0.09375], atol=1e-12)
    np.testing.assert_allclose(half[0, :3], [0.5, 0.59375, -0.09375], atol=1e-12)
    third = resize_weights(6, 4, method="bicubic", antialias=False)
    np.testing.assert_allclose(third[0, :3], [0.773438, 0.261719, -0.035156], atol=1e-6)
    np.testing.assert_allclose(third[1, :4], [-0.035156, 0.261719, 0.878906, -0.105469], atol=1e-6)
    np.testing.assert_allclose(third[3, ::-1], third[0], atol=1e-12)


def test_rows_and_columns_apart():
    """A grid that is not square, to another ratio of sides."""
    grid = RNG.normal(size=(2, 6, 9, 3)).astype(np.float32)
    found = jax.jit(resize_grid, static_argnums=1)(grid, (4, 5))
    assert found.shape == (2, 4, 5, 3)
    rows, columns = (
        resize_weights(n, m, method="bicubic", antialias=False) for n, m in ((6, 4), (9, 5))
    )
    expected = np.einsum("bhwd,yh,xw->byxd", grid, rows, columns)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_same_grid_is_returned_as_it_is():
    grid = jnp.asarray(RNG.normal(size=(3, 4, 2)))
    assert resize_grid(grid, (3, 4)) is grid


def test_unknown_method_is_named():
    with pytest.raises(ValueError, match=r"method='area' is unknown; use one of .*bilinear"):
        resize_grid(jnp.zeros((2, 2, 1)), (1, 1), method="area")
