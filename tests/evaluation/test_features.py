"""Features of images: which pixels the encoder sees, and in what it answers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from images import smooth
from PIL import Image

from dinojax import mesh
from dinojax.evaluation.features import centre_crops, make_dense_encoder, pixel_features
from dinojax.models.vit import VisionTransformer
from dinojax.precision import POLICIES

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def on_canvas(*images, canvas_px=64, padding=0):
    """A batch as `dinojax.data.pipeline.sequential_batches` makes it."""
    canvas = np.full((len(images), canvas_px, canvas_px, 3), padding, np.uint8)
    for slot, image in zip(canvas, images, strict=True):
        slot[: image.shape[0], : image.shape[1]] = image
    return canvas, np.array([i.shape[:2] for i in images], np.int32)


@functools.cache
def make_backbone(precision="float32"):
    backbone = VisionTransformer(
        embed_dim=32, depth=1, num_heads=2, n_storage_tokens=2, precision=POLICIES[precision]
    )
    init = jax.jit(backbone.init)
    return backbone, init(jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)))["params"]


@pytest.mark.parametrize("shape", [(40, 40), (40, 61), (57, 33), (64, 64), (20, 30)])
def test_centre_crop_is_pillows(shape):
    """Within the rounding that Pillow does and `resized_crop` does not (1.13 levels)."""
    height, width = shape
    image = smooth(height, width)
    side = min(shape)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(image[top : top + side, left : left + side])
    expected = square.resize((32, 32), Image.Resampling.BICUBIC)
    actual = centre_crops(*on_canvas(image), 32)[0]
    np.testing.assert_allclose(actual, np.asarray(expected, float), atol=1.2)


def test_padding_is_never_seen():
    images = smooth(40, 61), smooth(57, 33)
    black, white = (centre_crops(*on_canvas(*images, padding=p), 32) for p in (0, 255))
    np.testing.assert_array_equal(black, white)


def test_encoder_is_the_backbone_on_normalised_crops():
    backbone, params = make_backbone()
    batch = on_canvas(smooth(40, 61), smooth(57, 33))
    encode = make_dense_encoder(backbone, image_px=32, mean=MEAN, std=STD)
    images = (np.asarray(centre_crops(*batch, 32)) / 255 - np.array(MEAN)) / np.array(STD)
    apply = jax.jit(backbone.apply)
    (expected,) = apply({"params": params}, jnp.asarray(images, jnp.float32)[None])
    np.testing.assert_allclose(encode(params, *batch).cls, expected.cls[0], rtol=1e-4, atol=1e-4)


def test_features_are_float32_whatever_the_model_computes_in():
    backbone, params = make_backbone("bfloat16")
    encode = make_dense_encoder(backbone, image_px=32, mean=MEAN, std=STD)
    features = jax.eval_shape(encode, params, *on_canvas(smooth(40, 61)))
    assert features.cls.dtype == features.patches.dtype == jnp.float32


def test_a_mesh_shares_the_batch_and_changes_nothing():
    backbone, params = make_backbone()
    batch = on_canvas(*[smooth(40 + i, 61) for i in range(8)])
    encode = make_dense_encoder(backbone, image_px=32, mean=MEAN, std=STD)
    alone = encode(params, *batch).cls
    on = mesh.make_mesh(4, 2)
    with jax.set_mesh(on):
        split = encode(jax.device_put(params, mesh.shardings(on, params)), *batch).cls
    assert split.sharding.spec[0] == mesh.BATCH_AXES
    np.testing.assert_allclose(split, alone, rtol=1e-4, atol=1e-4)


def test_pixel_features_ignore_brightness():
    ramp = np.add.outer(np.arange(48), 2 * np.arange(48))
    image = (ramp[..., None] + [9, 40, 20]).astype(np.uint8)  # nothing to clip
    darker, brighter = pixel_features(*on_canvas(image, image + 60))
    assert darker.shape == (32 * 32 * 3,)
    np.testing.assert_allclose(darker, brighter, atol=1e-5)
    assert abs(float(darker.mean())) < 1e-6
    assert pixel_features(*on_canvas(image), 8).shape == (1, 8 * 8 * 3)
