"""Whole images through windows: outputs lie where the image has them."""

import jax.numpy as jnp
import numpy as np
import pytest
from einops import reduce

from dinojax.evaluation.ridge import LinearHead
from dinojax.evaluation.sliding import Windows, looks
from dinojax.evaluation.whole_images import make_predictor

CANVAS, PATCH = 24, 4


def encode(params, images, content):
    """Mean grey levels of patches."""
    shown = jnp.where(content[..., None], images, 0)
    return reduce(shown, "b (h p) (w q) C -> b h w C", "mean", p=PATCH, q=PATCH)


HEAD = LinearHead(jnp.eye(3)[:, :2], jnp.array([0.0, 1.0]))


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, np.ndarray]:
    """Two smooth images of other proportions, linear in rows and columns."""
    canvas = np.full((2, CANVAS, CANVAS, 3), 255, np.uint8)
    sizes = np.array([[12, 24], [20, 12]], np.int32)
    for image, (rows, columns) in zip(canvas, sizes, strict=True):
        y, x = np.mgrid[:rows, :columns]
        image[:rows, :columns] = np.stack([10 * x, 10 * y, 0 * x], -1)
    return canvas, sizes


def test_one_scale(batch):
    """A linear image comes back at every pixel between the outermost patches' middles."""
    windows = Windows(window_px=12, stride_px=8, short_px=12)
    assert [len(look.lefts) for look in looks((12, 24), windows)] == [3]
    maps = list(make_predictor(encode, windows)({}, HEAD, *batch))
    for scores, canvas, (rows, columns) in zip(maps, *batch, strict=True):
        inside = np.s_[2 : rows - 2, 2 : columns - 2]
        expected = canvas[inside][..., :2] + np.array([0.0, 1.0])
        # Windows end inside the image, too, and repeat their border patches there.
        off = np.abs(np.asarray(scores[inside]) - expected)
        assert np.median(off) < 1e-3 and off.max() <= 15.1
        assert scores.shape == (128, 128, 2)


def test_scales_and_mirror_images(batch):
    """A mirror image changes nothing in a symmetric case; probabilities add up to how many saw."""
    windows = Windows(window_px=12, stride_px=8, short_px=12, scales=(1.0, 1.5), flip=True)
    assert len(looks((12, 24), windows)) == 4
    (scores, _) = make_predictor(encode, windows)({}, HEAD, *batch)
    seen = np.s_[:12, :24]
    np.testing.assert_allclose(np.asarray(scores[seen]).sum(-1), 4, atol=1e-4)
    canvas, sizes = batch
    mirrored = canvas.copy()
    for image, (rows, columns) in zip(mirrored, sizes, strict=True):
        image[:rows, :columns] = image[:rows, :columns][:, ::-1]
    (other, _) = make_predictor(encode, windows)({}, HEAD, mirrored, sizes)
    np.testing.assert_allclose(other[seen], scores[seen][:, ::-1], atol=1e-3)
