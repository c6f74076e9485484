"""Raw pixels in the place of a backbone: what every network has to beat, through the same code."""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from dinojax.kernels.resize import resize_grid
from dinojax.models.embed import to_patches
from dinojax.models.features import Features
from dinojax.precision import Precision, widen
from dinojax.typing import Array, Float


class Pixels(nn.Module):
    """A module without parameters, called like `VisionTransformer` for plain encoding.

    CLS is the image at `side` px or smaller, flattened, with zero mean: without the mean, cosine
    similarity would compare brightness and not patterns. A patch is its own pixels.
    """

    precision: Precision
    patch_size: int = 8
    side: int = 32

    @property
    def stride(self) -> int:
        """Pixels between neighbouring patches."""
        return self.patch_size

    @property
    def depth(self) -> int:
        return 1

    @nn.compact
    def __call__(self, images: Float[Array, "G b h w C"]) -> tuple[Features]:
        height, width = images.shape[2:4]
        small = rearrange(images, "G b h w C -> (G b) h w C")
        if max(height, width) > self.side:
            small = resize_grid(
                widen(small), (self.side, self.side), method="bilinear", antialias=True
            )
        cls = rearrange(small, "(G b) h w C -> G b (h w C)", G=images.shape[0])
        cls = cls - cls.mean(axis=-1, keepdims=True)
        patches = rearrange(to_patches(images, self.patch_size), "G b r c q -> G b (r c) q")
        none = jnp.zeros((*cls.shape[:2], 0, patches.shape[-1]), patches.dtype)
        return (Features(cls, none, patches, patches),)

    def intermediate(self, images, layers, *, norm: bool = True) -> list[Features]:
        """The only layer, 0.

        Raises:
            ValueError: another layer.
        """
        if set(layers) != {0}:
            raise ValueError(f"layers={list(layers)}: raw pixels have one layer; use [0]")
        return list(self(images))
