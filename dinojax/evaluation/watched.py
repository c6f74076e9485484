"""What a monitor wants to know of images, from one pass over them; patches stay on the device."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from dinojax.evaluation.features import Canvases, Sizes, make_forward
from dinojax.evaluation.locality import drift, locality
from dinojax.evaluation.patch_norms import patch_norm_outliers
from dinojax.mesh import current_batch_shards, split_batch
from dinojax.models.presets import Backbone
from dinojax.precision import widen
from dinojax.typing import Array, Float, Params

GOLDEN = 0.618
"""Of a grid: steps of this share of its patches come near every place before one comes again."""


class Watched(NamedTuple):
    """Of a batch of images, float32."""

    cls: Float[Array, "b D"]
    """Normed."""
    patch: Float[Array, "b D"]
    """One normed patch of each image, at places spread over the grid."""
    locality: Float[Array, " b"]
    drift: Float[Array, " b"]
    patch_norm_outliers: Float[Array, " b"]


def make_watching_encoder(
    backbone: Backbone, *, image_px: int, mean: Sequence[float], std: Sequence[float]
) -> Callable[..., Watched]:
    """A jitted ``(backbone parameters, canvas, size) -> Watched`` on centre crops.

    Under `jax.set_mesh` the batch is shared among the devices.
    """
    side, forward = image_px // backbone.stride, make_forward(backbone, image_px, mean, std)
    step = max(round(GOLDEN * side**2), 1)

    @jax.jit
    def encode(params: Params, canvas: Canvases, size: Sizes) -> Watched:
        features = forward(params, canvas, size)
        cls, patches = widen(features.cls[0]), widen(features.patches[0])
        rows = jnp.arange(len(patches))
        grid = rearrange(patches, "b (h w) D -> b h w D", h=side)
        return Watched(
            cls,
            patches[rows, rows * step % side**2],
            _by_device(locality, grid),
            drift(cls, grid),
            patch_norm_outliers(features.prenorm[0, :, -(side**2) :]),
        )

    return encode


def _by_device(
    measure: Callable[[Array], Array], images: Float[Array, "b h w D"]
) -> Float[Array, " b"]:
    """Each device its own images: what goes through images one after another would gather them."""
    shards = current_batch_shards()
    if len(images) % shards:
        return measure(images)
    parts = split_batch(rearrange(images, "(Z b) h w D -> Z b h w D", Z=shards))
    return rearrange(split_batch(jax.vmap(measure)(parts)), "Z b -> (Z b)")
