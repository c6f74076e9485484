"""Images to tokens: patch projection, mask tokens, CLS and register tokens."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from dinojax.kernels.linear import linear, spread
from dinojax.precision import Precision
from dinojax.typing import Array, Bool, Float

TOKEN_INIT = nn.initializers.normal(0.02)


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of whole patches; a remainder at the right and bottom is not used.

    Raises:
        ValueError: the image is smaller than one patch.
    """
    if height < patch_size or width < patch_size:
        raise ValueError(
            f"image of {height}x{width} px is smaller than one patch; "
            f"patch_size={patch_size} needs at least {patch_size} px on each side"
        )
    return height // patch_size, width // patch_size


class PatchEmbed(nn.Module):
    """Non-overlapping patches through one linear map, in row-major order."""

    width: int
    patch_size: int
    precision: Precision

    @nn.compact
    def __call__(self, images: Float[Array, "G b h w C"]) -> Float[Array, "G b P D"]:
        p, channels = self.patch_size, images.shape[-1]
        rows, columns = patch_grid(images.shape[2], images.shape[3], p)
        images = images[:, :, : rows * p, : columns * p]
        # Nothing is transposed: the product sums over rows p and, side by side in memory, (q, C).
        patches = rearrange(images, "G b (r p) (c q) C -> G b r p c (q C)", p=p, q=p)

        def init(key, shape, dtype):  # PyTorch's default for convolutions: weight and bias alike
            bound = 1 / math.sqrt(channels * p * p)
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        kernel = self.param("kernel", init, (p, p, channels, self.width), self.precision.param)
        bias = self.param("bias", init, (self.width,), self.precision.param)
        embedded = linear(
            patches,
            kernel,
            bias,
            compute=self.precision.compute,
            axes=(3, 5),
            input_axes=3,
            pinned=True,
        )
        return rearrange(embedded, "G b r c D -> G b (r c) D")


class Embed(nn.Module):
    """Token sequence ``[CLS, registers, patches]``; masked patches become the mask token.

    Nothing positional is added: positions enter through RoPE inside the layers.
    """

    width: int
    patch_size: int
    registers: int
    precision: Precision

    @nn.compact
    def __call__(
        self, images: Float[Array, "G b h w C"], masks: Bool[Array, "G b P"] | None
    ) -> Float[Array, "G b N D"]:
        param = self.precision.param
        patches = PatchEmbed(self.width, self.patch_size, self.precision, name="patch_embed")(
            images
        )
        mask_token = self.param("mask_token", nn.initializers.zeros, (self.width,), param)
        if masks is not None:
            patches = jnp.where(
                masks[..., None], spread(mask_token, patches.shape, patches.dtype), patches
            )
        prefix = self.param("cls_token", TOKEN_INIT, (1, self.width), param)
        if self.registers:
            storage = self.param("storage_tokens", TOKEN_INIT, (self.registers, self.width), param)
            prefix = jnp.concatenate([prefix, storage])
        prefix = spread(prefix, (*patches.shape[:2], *prefix.shape), patches.dtype)
        return jnp.concatenate([prefix, patches], axis=2)
