"""Windows of resized images against torch's antialiased bilinear filter, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.frames import Frame, centred, cut, cut_map, shorter_side

SIZE, CANVAS = (11, 14), 16
OUT = (6, 9)


def resize_axis(x: np.ndarray, out: int) -> np.ndarray:
    """Along the first axis: triangle filter, widened when shrinking, normalised inside."""
    scale = len(x) / out
    support = max(scale, 1)
    centres = (np.arange(out) + 0.5) * scale
    distance = np.abs(np.arange(len(x)) + 0.5 - centres[:, None]) / support
    weights = np.maximum(1 - distance, 0)
    return np.tensordot(weights / weights.sum(1, keepdims=True), x, 1)


def resize(x: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    return resize_axis(resize_axis(x, hw[0]).swapaxes(0, 1), hw[1]).swapaxes(0, 1)


def nearest(x: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    rows, columns = ((np.arange(n) + 0.5) * m / n for n, m in zip(hw, x.shape, strict=True))
    return x[np.floor(rows).astype(int)][:, np.floor(columns).astype(int)]


@pytest.fixture(scope="module")
def canvas() -> tuple[np.ndarray, np.ndarray]:
    """An image in the corner of a canvas whose rest would show up, and its map."""
    rng = np.random.default_rng(0)
    canvas = np.full((CANVAS, CANVAS, 3), 255, np.uint8)
    canvas[: SIZE[0], : SIZE[1]] = rng.integers(0, 200, (*SIZE, 3))
    return canvas, canvas[..., 0].astype(np.int32)


@jax.jit
def both(canvas, map, frame, flip):
    size = jnp.array(SIZE)
    crop, content = cut(canvas, size, frame, OUT, flip=flip)
    return crop, content, cut_map(map, size, frame, OUT, empty=-1, flip=flip)


@pytest.mark.parametrize("resized", [(22, 21), (7, 10), (11, 14)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_window_of_the_resized_image(canvas, resized, flip):
    image, labels = (x[: SIZE[0], : SIZE[1]] for x in canvas)
    frame = Frame(jnp.array(resized), jnp.array((1, 1)))
    crop, content, map = both(*canvas, frame, flip)
    window = np.s_[1 : 1 + OUT[0], 1 : 1 + OUT[1]]
    expected = resize(image.astype(float), resized)[window]
    expected_map = nearest(labels, resized)[window]
    if flip:
        expected, expected_map = expected[:, ::-1], expected_map[:, ::-1]
    np.testing.assert_allclose(crop, expected, atol=1e-3)
    np.testing.assert_array_equal(map, expected_map)
    assert content.all()


def test_beyond_the_image(canvas):
    """Nothing of the canvas' rest: zeros, no content, and the empty class."""
    frame = Frame(jnp.array(SIZE), jnp.array((-2, 9)))
    crop, content, map = both(*canvas, frame, False)
    inside = np.zeros(OUT, bool)
    inside[2:, :5] = True
    np.testing.assert_array_equal(content, inside)
    np.testing.assert_allclose(crop, np.pad(canvas[0][:4, 9:14], ((2, 0), (0, 4), (0, 0))))
    np.testing.assert_array_equal(np.asarray(map) == -1, ~inside)
    _, mirrored, _ = both(*canvas, frame, True)
    np.testing.assert_array_equal(mirrored, inside[:, ::-1])


def test_sizes():
    assert shorter_side(jnp.array((480, 640)), 512).tolist() == [512, 683]
    assert shorter_side(jnp.array((900, 300)), 100).tolist() == [300, 100]
    resized, corner = centred(jnp.array((480, 640)), (240, 240))
    assert (resized.tolist(), corner.tolist()) == ([240, 320], [0, 40])
    resized, corner = centred(jnp.array((480, 640)), (480, 640))
    assert (resized.tolist(), corner.tolist()) == ([480, 640], [0, 0])
