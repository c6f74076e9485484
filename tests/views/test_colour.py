"""Colour operations against float64 oracles, written from their definitions."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adjustments import adjust

from dinojax.views import colour

TOLERANCE = 1e-5 * 255


def picture(seed: int = 0, channels: int = 3) -> np.ndarray:
    """Grey levels with exact greys, black, white and ties between channels among them."""
    image = np.random.default_rng(seed).uniform(0, 255, (11, 13, channels))
    image[0] = image[0, :, :1]
    image[1, :2] = [[0.0] * channels, [255.0] * channels]
    image[2, :, 1:] = image[2, :, :1] / 2
    return image


def luma(x):
    return x @ [0.299, 0.587, 0.114]


def blend(image, reference, factor):
    return np.clip(reference + factor * (image - reference), 0, 255)


def turn(image, by):
    flat = [colorsys.rgb_to_hsv(*rgb) for rgb in image.reshape(-1, 3) / 255]
    return 255 * np.reshape(
        [colorsys.hsv_to_rgb((h + by) % 1, s, v) for h, s, v in flat], image.shape
    )


ORACLE = {
    colour.BRIGHTNESS: lambda x, f: blend(x, 0, f),
    colour.CONTRAST: lambda x, f: blend(x, luma(x).mean(), f),
    colour.SATURATION: lambda x, f: blend(x, luma(x)[..., None], f),
    colour.HUE: turn,
}


def check(ours, expected):
    np.testing.assert_allclose(np.asarray(ours, float), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("operation", list(ORACLE))
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4, -0.1, -0.5])
def test_operation(operation, factor):
    if operation != colour.HUE and factor < 0:
        factor += 2
    image = picture()
    ours = adjust(jnp.asarray(image, jnp.float32), operation, factor)
    check(ours, ORACLE[operation](image, factor))


def test_alone():
    """As segmentation uses them."""
    image = jnp.asarray(picture(), jnp.float32)
    check(colour.adjust_saturation(image, 0.6), ORACLE[colour.SATURATION](picture(), 0.6))
    check(colour.adjust_hue(image, -0.1), ORACLE[colour.HUE](picture(), -0.1))


def test_grey():
    check(colour.to_grey(jnp.asarray(picture()))[..., 0], luma(picture()))
    check(colour.to_grey(jnp.asarray(picture(channels=5)))[..., 0], picture(channels=5).mean(-1))


def test_solarize():
    image = picture()
    image[3, 0] = (127.9, 128.0, 128.1)
    check(colour.solarize(jnp.asarray(image)), np.where(image >= 128, 255 - image, image))


def test_contrast_of_the_content_ignores_the_padding():
    image = picture()
    content = np.zeros((*image.shape[:2], 1), bool)
    content[:7, :9] = True
    inner = image[:7, :9]
    ours = adjust(jnp.asarray(image), colour.CONTRAST, 0.7, jnp.asarray(content))
    check(ours[:7, :9], blend(inner, luma(inner).mean(), 0.7))


def test_jitter_in_every_order():
    image = picture(1)
    orders = np.array(list(itertools.permutations(range(4))), np.int32)
    factors = np.random.default_rng(0).uniform((0.6, 0.6, 0.8, -0.1), (1.4, 1.4, 1.2, 0.1), (24, 4))
    jitter = jax.jit(jax.vmap(colour.color_jitter, (None, 0, 0)))
    ours = jitter(jnp.asarray(image, jnp.float32), jnp.asarray(factors, jnp.float32), orders)
    for i, order in enumerate(orders):
        expected = image
        for operation in order:
            expected = ORACLE[operation](expected, factors[i, operation])
        check(ours[i], expected)


def test_identity_factors_change_nothing():
    image = jnp.asarray(picture(2), jnp.float32)
    jitter = jax.jit(colour.color_jitter)
    for order in ([0, 1, 2, 3], [3, 2, 0, 1]):
        check(jitter(image, jnp.asarray(colour.IDENTITY), jnp.asarray(order)), image)


@pytest.mark.parametrize("channels", [1, 5])
def test_images_without_colour_have_brightness_and_contrast_only(channels):
    image = picture(3, channels)
    ours = colour.color_jitter(
        jnp.asarray(image, jnp.float32),
        jnp.asarray((1.2, 0.7, 1.0, 0.0)),
        jnp.asarray((3, 1, 2, 0)),
    )
    check(ours, blend(blend(image, image.mean(), 0.7), 0, 1.2))
