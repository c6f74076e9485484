"""Features of images from a frozen encoder, and the raw pixels as their honest baseline."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from dinojax.mesh import split_batch
from dinojax.models.features import Features
from dinojax.models.pixels import Pixels
from dinojax.models.presets import Backbone
from dinojax.precision import widen
from dinojax.typing import Array, Float, Int, Params, UInt8
from dinojax.views.colour import WHITE, normalise
from dinojax.views.maps import crop_map
from dinojax.views.resample import resized_crop

Canvases = UInt8[Array | np.ndarray, "b H W C"]
Sizes = Int[Array | np.ndarray, "b 2"]


class DenseFeatures(NamedTuple):
    """Normed tokens of a batch of images, float32."""

    cls: Float[Array, "b D"]
    patches: Float[Array, "b h w D"]


def make_dense_encoder(
    backbone: Backbone | Pixels,
    *,
    image_px: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Callable[..., DenseFeatures]:
    """A jitted ``(backbone parameters, canvas, size) -> DenseFeatures`` of centre crops.

    Under `jax.set_mesh` the batch is shared among the devices.

    Args:
        image_px: side of the crops, a multiple of the backbone's stride.
    """
    side, forward = image_px // backbone.stride, make_forward(backbone, image_px, mean, std)

    @jax.jit
    def encode(params: Params, canvas: Canvases, size: Sizes) -> DenseFeatures:
        features = forward(params, canvas, size)
        patches = rearrange(widen(features.patches[0]), "b (h w) D -> b h w D", h=side)
        return DenseFeatures(widen(features.cls[0]), patches)

    return encode


def make_forward(
    backbone: Backbone | Pixels, image_px: int, mean: Sequence[float], std: Sequence[float]
) -> Callable[..., Features]:
    """``(backbone parameters, canvas, size) -> Features`` of centre crops, in one group."""

    def forward(params: Params, canvas: Canvases, size: Sizes) -> Features:
        crops = centre_crops(split_batch(canvas), size, image_px)
        images = normalise(crops, mean, std)
        with backbone.precision.exact_products():
            output = backbone.apply({"params": params}, images[None])
        (features,) = cast(tuple[Features, ...], output)
        return features

    return forward


@jax.jit(static_argnames="image_px")
def pixel_features(canvas: Canvases, size: Sizes, image_px: int = 32) -> Float[Array, "b D"]:
    """The same centre crops as an encoder gets, small, flattened, each with zero mean.

    What a trained encoder has to beat: an untrained one can look good on easy data. Without the
    mean, cosine similarity compares patterns and not brightness.
    """
    pixels = centre_crops(canvas, size, image_px).reshape(len(canvas), -1) / WHITE
    return pixels - pixels.mean(axis=1, keepdims=True)


def centre_crops(canvas: Canvases, size: Sizes, out_px: int) -> Float[Array, "b S S C"]:
    """The largest centred square of each image, resampled once to `out_px`; grey levels 0..255.

    Equals resizing the shorter side to `out_px` and cutting the middle, up to a pixel of rounding.
    """

    def crop(canvas: UInt8[Array, "H W C"], size: Int[Array, "2"]) -> Float[Array, "S S C"]:
        return resized_crop(canvas, centre_box(size), out_px)

    return jax.vmap(crop)(jnp.asarray(canvas), jnp.asarray(size))


@jax.jit(static_argnames="out_px")
def centre_maps(
    maps: Int[Array | np.ndarray, "b H W"], size: Sizes, out_px: int
) -> Int[Array, "b S S"]:
    """The same squares of the images' maps, at the nearest pixels."""

    def crop(map: Int[Array, "H W"], size: Int[Array, "2"]) -> Int[Array, "S S"]:
        return crop_map(map, centre_box(size), out_px)

    return jax.vmap(crop)(jnp.asarray(maps), jnp.asarray(size))


def centre_box(size: Int[Array, "2"], image_px: int = 1, resize_px: int = 1) -> Int[Array, "4"]:
    """The middle `image_px` squared of an image whose shorter side is resized to `resize_px`, in
    its own pixels; by default the largest centred square."""
    side = (2 * size.min() * image_px + resize_px) // (2 * resize_px)  # to the nearest pixel
    top, left = (size - side) // 2
    return jnp.stack([top, left, side, side])
