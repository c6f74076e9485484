"""Augmented crops: image and map stay together, and no class fills a crop where that can be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.segmentation_views import SegmentationViews, distort

CANVAS, CROP = 32, 16
SIZE = jnp.array((24, 32))


def crops(views: SegmentationViews, canvas, labels, count: int = 64):
    keys = jax.random.split(jax.random.key(0), count)
    one = jax.jit(jax.vmap(lambda key: views(key, canvas, SIZE, labels, 4)))
    return jax.tree.map(np.asarray, one(keys))


@pytest.fixture(scope="module")
def scene():
    """Grey level 60 x class + 10; class 0 but for a stripe of 1 at the right and 3 at the left."""
    labels = np.zeros((CANVAS, CANVAS), np.int32)
    labels[:, 26:], labels[:, :4] = 1, 3
    canvas = np.repeat((60 * labels + 10)[..., None], 3, -1).astype(np.uint8)
    labels[24:] = -1
    return jnp.asarray(canvas), jnp.asarray(labels)


def test_image_and_map_go_together(scene):
    views = SegmentationViews(crop_px=CROP, short_px=20, distort=False)
    image, content, labels = crops(views, *scene)
    exact = np.isin(np.round(image[..., 0], 3), [10, 70, 190]) & content
    assert (image[..., 0][exact].round() == 60 * labels[exact] + 10).all()
    assert exact.mean() > 0.6
    assert ((labels == -1) == ~content).all() and not image[~content].any()
    # At scale 1/2 the image has 10 rows, at 2 only a part of it is seen.
    assert not content.all() and content.any((1, 2)).all()
    first = np.where(content[:, 0], labels[:, 0], 0)
    assert (first[:, 0] == 1).any() and (first[:, 0] == 3).any()  # mirrored, and not


def test_no_class_fills_a_crop(scene):
    """At scale 2, 3 of 7 places have nothing but class 0; with ten tries one shows two classes."""

    def shares(tries: int) -> np.ndarray:
        views = SegmentationViews(crop_px=CROP, short_px=48, scale=(1.0, 1.0), tries=tries)
        _, _, labels = crops(views, *scene)
        counts = (labels[..., None] == np.arange(4)).sum((1, 2))
        return counts.max(1) / counts.sum(1)

    once, often = shares(1), shares(10)
    assert (once < 0.75).mean() < 0.5
    assert (often < 0.78).mean() > 0.8


def test_distortion():
    image = jnp.full((2, 2, 3), 100.0).at[..., 0].set(120.0)
    shade = jax.jit(distort)
    unused = jnp.full(9, 0.9)
    np.testing.assert_allclose(shade(image, unused), image, atol=1e-4)
    brighter = unused.at[0].set(0).at[4].set(0.75)  # + 16
    np.testing.assert_allclose(shade(image, brighter), image + 16, atol=1e-3)
    contrast = unused.at[1].set(0).at[5].set(0.25)  # x 0.75
    np.testing.assert_allclose(shade(image, contrast), 0.75 * image, atol=1e-3)
    early = shade(image, contrast.at[8].set(0).at[0].set(0).at[4].set(0.75))
    np.testing.assert_allclose(early, 0.75 * (image + 16), atol=1e-3)
    grey = shade(image, unused.at[2].set(0).at[6].set(0.0))  # half of the saturation
    assert float(jnp.ptp(grey)) == pytest.approx(10, abs=0.01)
    hue = shade(image, unused.at[3].set(0).at[7].set(0.5 + 1 / 3))  # red becomes green
    np.testing.assert_allclose(hue, image[..., jnp.array([1, 0, 2])], atol=1e-2)
