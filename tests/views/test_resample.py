"""Resampling against Pillow's 8-bit algorithm, written out here, and against its definition."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_resize import resize_uint8

from dinojax.views.resample import resample_weights, resize, resized_crop

matrix_of = jax.jit(resample_weights, static_argnames=("out_px", "canvas_px", "dtype"))
whole = jax.jit(resize, static_argnums=1)
STORED = Path(__file__).parent / "data" / "pillow12_bicubic.npz"
"""Crops of the image in it, resized by Pillow 12.0: ``top_left_height_width_size``."""
LEVELS = 1.13
CANVAS_PX = 72
BITS = 32 - 8 - 2


def bicubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0


def pillow_pass(image: np.ndarray, out_px: int) -> np.ndarray:
    """Resize axis 1 as Pillow's ``ImagingResampleHorizontal_8bpc``."""
    in_px = image.shape[1]
    scale = in_px / out_px
    stretch = max(scale, 1.0)
    out = np.empty((image.shape[0], out_px, *image.shape[2:]), np.uint8)
    for i in range(out_px):
        centre = (i + 0.5) * scale
        first = max(int(centre - 2 * stretch + 0.5), 0)
        last = min(int(centre + 2 * stretch + 0.5), in_px)
        weights = np.array([bicubic((x - centre + 0.5) / stretch) for x in range(first, last)])
        weights = weights / weights.sum() * 2**BITS
        fixed = np.trunc(weights + np.copysign(0.5, weights)).astype(np.int64)
        total = np.einsum("w,hwc->hc", fixed, image[:, first:last].astype(np.int64))
        out[:, i] = np.clip((total + (1 << (BITS - 1))) >> BITS, 0, 255)
    return out


def pillow_crop(image: np.ndarray, box: tuple[int, ...], out_px: int) -> np.ndarray:
    top, left, height, width = box
    narrow = pillow_pass(image[top : top + height, left : left + width], out_px)
    return pillow_pass(narrow.swapaxes(0, 1), out_px).swapaxes(0, 1)


def harsh_image(seed: int) -> np.ndarray:
    """Saturated blocks and noise: every overshoot of the filter meets the clipping."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([0, 255], (CANVAS_PX // 4, CANVAS_PX // 4, 3)).repeat(4, 0).repeat(4, 1)
    noise = rng.choice([0, 255], (CANVAS_PX, CANVAS_PX, 3))
    smooth = rng.integers(0, 256, (CANVAS_PX // 8, CANVAS_PX // 8, 3)).repeat(8, 0).repeat(8, 1)
    third = CANVAS_PX // 3
    return np.concatenate([blocks[:third], noise[:third], smooth[:third]]).astype(np.uint8)


@pytest.fixture(scope="module")
def crop():
    return jax.jit(resized_crop, static_argnames="out_px")


@pytest.mark.parametrize("name", [n for n in np.load(STORED) if n != "image"])
def test_pillow_12(name, crop):
    """Of the stored vectors the oracle must reproduce every bit, and we every grey level."""
    data = np.load(STORED)
    *box, size = map(int, name.split("_"))
    np.testing.assert_array_equal(pillow_crop(data["image"], tuple(box), size), data[name])
    ours = crop(jnp.asarray(data["image"], jnp.float32), jnp.asarray(box), out_px=size)
    assert np.abs(np.asarray(ours) - data[name]).max() <= LEVELS


@pytest.mark.parametrize("out_px", [16, 24, 40])
def test_random_boxes(out_px, crop):
    """Scales from 0.3 to 3 along either axis, at any place."""
    rng = np.random.default_rng(out_px)
    low, high = int(np.ceil(0.34 * out_px)), min(3 * out_px, CANVAS_PX)
    for seed in range(12):
        image = harsh_image(seed)
        size = rng.integers(low, high + 1, 2)
        box = (*rng.integers(0, CANVAS_PX - size + 1), *size)
        expected = pillow_crop(image, box, out_px)
        ours = crop(jnp.asarray(image, jnp.float32), jnp.asarray(box), out_px=out_px)
        error = np.abs(np.asarray(ours) - expected).max()
        assert error <= LEVELS, f"{box} to {out_px}: {error:.3f} levels"


def test_weights_stay_inside_the_crop_and_sum_to_one():
    for start, length, out in [(0, 50, 13), (7, 30, 13), (40, 10, 13), (49, 1, 13)]:
        matrix = np.asarray(matrix_of(out, 50, start, length, dtype=jnp.float32))
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
        assert not matrix[:, :start].any() and not matrix[:, start + length :].any()


def test_weights_match_the_definition_in_float64():
    start, length, out = 5, 37, 13
    scale = length / out
    expected = np.zeros((out, 50))
    for i in range(out):
        for x in range(length):
            expected[i, start + x] = bicubic((x + 0.5 - (i + 0.5) * scale) / scale)
    expected /= expected.sum(axis=1, keepdims=True)
    ours = matrix_of(out, 50, start, length, dtype=jnp.float32)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("kind, passes", [(jnp.uint8, 5), (jnp.float32, 6)])
def test_passes_of_bfloat16_are_enough(kind, passes, monkeypatch):
    """What accelerators compute, run here: two passes for whole levels, three for others."""
    image = jnp.asarray(harsh_image(5), kind)
    boxes = [jnp.asarray(box) for box in [(0, 0, 72, 72), (3, 9, 30, 44), (20, 5, 25, 61)]]
    exact = [resized_crop(image, box, 24) for box in boxes]

    def on_an_accelerator(*args, cpu, default):
        return default(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", on_an_accelerator)
    for box, expected in zip(boxes, exact, strict=True):
        ours = resized_crop(image, box, 24)
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, expected, atol=0.01)
    program = str(jax.make_jaxpr(lambda image: resized_crop(image, boxes[0], 24))(image))
    assert program.count("dot_general") == passes


def test_canvases_of_integers_and_floats_are_the_same(crop):
    image, box = harsh_image(7), jnp.asarray((3, 9, 30, 44))
    integers = crop(jnp.asarray(image), box, out_px=24)
    np.testing.assert_array_equal(integers, crop(jnp.asarray(image, float), box, out_px=24))


@pytest.mark.parametrize(
    "box", [(0, 0, 20, 30), (40, 52, 32, 20), (52, 40, 20, 32), (30, 7, 31, 5)]
)
def test_window_changes_nothing(box, crop):
    image = jnp.asarray(harsh_image(6), jnp.float32)
    windowed = jax.jit(lambda image, box: resized_crop(image, box, 24, window_px=32))
    ours = windowed(image, jnp.asarray(box))
    np.testing.assert_allclose(ours, crop(image, jnp.asarray(box), out_px=24), atol=1e-3)


def test_flip_is_the_mirror_image(crop):
    image = jnp.asarray(harsh_image(1), jnp.float32)
    box = jnp.asarray((3, 9, 30, 44))
    plain, kept, flipped = (crop(image, box, out_px=16, flip=f) for f in (None, False, True))
    np.testing.assert_array_equal(plain, kept)
    np.testing.assert_allclose(flipped[:, ::-1], plain, atol=1e-3)
    assert np.abs(np.asarray(flipped - plain)).max() > 50


def test_same_size_is_the_identity(crop):
    image = jnp.asarray(harsh_image(2), jnp.float32)
    np.testing.assert_allclose(
        crop(image, jnp.asarray((8, 20, 40, 40)), out_px=40), image[8:48, 20:60], atol=1e-3
    )
    np.testing.assert_allclose(whole(image, (CANVAS_PX, CANVAS_PX)), image, atol=1e-3)


def test_resize_does_not_clip():
    image = jnp.asarray(harsh_image(3), jnp.float32)
    single = whole(image, (50, 90))
    assert single.shape == (50, 90, 3) and single.max() > 256
    stacked = whole(jnp.stack([image[::-1], image]), (50, 90))
    np.testing.assert_allclose(stacked[1], single, atol=1e-3)


def test_resize_uint8_is_the_rounded_crop():
    """Integers of 16 bits instead of Pillow's 22 move a pixel by one level at most."""
    image = harsh_image(4)
    ours = resize_uint8(image, (30, 30)).astype(int)
    expected = pillow_crop(image, (0, 0, CANVAS_PX, CANVAS_PX), 30)
    assert np.abs(ours - expected).max() <= 1
    assert (ours != expected).mean() < 0.05
