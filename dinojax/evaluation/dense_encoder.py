"""A frozen backbone as the dense heads take it: from crops in grey levels to patch features."""

from collections.abc import Sequence
from typing import cast

import jax.numpy as jnp
from einops import rearrange

from dinojax.evaluation.head_training import Encoder
from dinojax.models.convnext import ConvNeXt
from dinojax.models.features import Features
from dinojax.models.pixels import Pixels
from dinojax.models.presets import Backbone
from dinojax.precision import widen
from dinojax.typing import Array, Bool, Float, Params
from dinojax.views.colour import normalise


def make_patch_encoder(
    backbone: Backbone | Pixels, *, mean: Sequence[float], std: Sequence[float], layers: int = 1
) -> Encoder:
    """Normed patches of the last `layers` layers side by side, ``[b, r, c, layers * D]``.

    Images of any size: they are padded at both sides to whole patches, as in the reference, and
    padding has the mean colour, as has what is no image in them.

    Raises:
        ValueError: more layers than the backbone has on one grid.
    """
    convolutional = isinstance(backbone, ConvNeXt)
    most = 1 if convolutional else backbone.depth
    if not 1 <= layers <= most:
        raise ValueError(f"layers={layers} must lie in 1..{most} for this backbone; use 1")
    end = len(backbone.dims) if convolutional else backbone.depth
    stride = backbone.stride

    def encode(
        params: Params, images: Float[Array, "b h w C"], content: Bool[Array, "b h w"]
    ) -> Float[Array, "b r c D"]:
        images = jnp.where(content[..., None], normalise(images, mean, std), 0)
        missing = [-side % stride for side in images.shape[1:3]]
        pads = [(0, 0), *((n // 2, n - n // 2) for n in missing), (0, 0)]
        images = jnp.pad(images, pads)
        with backbone.precision.exact_products():
            output = backbone.apply(
                {"params": params},
                images[None],
                range(end - layers, end),
                method="intermediate",
            )
        patches = [widen(one.patches[0]) for one in cast(list[Features], output)]
        joined = jnp.concatenate(patches, -1)
        return rearrange(joined, "b (r c) D -> b r c D", r=images.shape[1] // stride)

    return encode
