"""Images to tokens: patch projection, mask tokens, learned positions, CLS and register tokens."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from dinojax.kernels.linear import linear, spread
from dinojax.kernels.resize import resize_grid
from dinojax.precision import Precision, widen
from dinojax.typing import Array, Bool, Float

TOKEN_INIT = nn.initializers.normal(0.02)
DINOV2_TOKEN_INIT = nn.initializers.normal(1e-6)
"""Of CLS and registers where the position table, which starts like a weight, tells tokens apart."""


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


def to_patches(images: Float[Array, "*b h w C"], size: int) -> Float[Array, "*b r c q"]:
    """Whole patches as vectors ``(row in patch, column in patch, channel)``."""
    rows, columns = patch_grid(images.shape[-3], images.shape[-2], size)
    whole = images[..., : rows * size, : columns * size, :]
    return rearrange(whole, "... (r p) (c q) C -> ... r c (p q C)", p=size, q=size)


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


def resample_positions(
    table: Float[Array, "T D"],
    grid: tuple[int, int],
    *,
    offset: float = 0.1,
    antialias: bool = False,
) -> Float[Array, "N D"]:
    """A learned position table for ``(rows, columns)`` patches; the first row is that of CLS.

    DINOv2's `interpolate_pos_encoding`: a table of another shape is resampled bicubically, also one
    of as many patches. `offset` (`interpolate_offset`) is added to the new sides where the step is
    taken from them; 0.1 for every model but the released ones with registers, whose rule is 0 with
    `antialias`.
    """
    side = math.isqrt(table.shape[0] - 1)
    if grid == (side, side):
        return table
    old = rearrange(table[1:], "(r c) D -> r c D", r=side)
    new = resize_grid(widen(old), grid, antialias=antialias, offset=offset).astype(table.dtype)
    return jnp.concatenate([table[:1], rearrange(new, "r c D -> (r c) D")])


class Embed(nn.Module):
    """Token sequence ``[CLS, registers, patches]``; masked patches become the mask token.

    With `pos_embed_grid` a learned table is added to CLS and patches, not to registers (DINOv2).
    Without, nothing positional is: positions enter through RoPE inside the layers.
    """

    width: int
    patch_size: int
    registers: int
    precision: Precision
    pos_embed_grid: int | None = None
    interpolate_offset: float = 0.1
    interpolate_antialias: bool = False

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
        token_init = TOKEN_INIT if self.pos_embed_grid is None else DINOV2_TOKEN_INIT
        prefix = self.param("cls_token", token_init, (1, self.width), param)
        if self.pos_embed_grid is not None:
            rows = 1 + self.pos_embed_grid**2
            positions = resample_positions(
                self.param("pos_embed", TOKEN_INIT, (rows, self.width), param),
                patch_grid(images.shape[2], images.shape[3], self.patch_size),
                offset=self.interpolate_offset,
                antialias=self.interpolate_antialias,
            )
            prefix = prefix + positions[:1]
            patches = patches + spread(positions[1:], patches.shape, patches.dtype)
        if self.registers:
            storage = self.param("storage_tokens", token_init, (self.registers, self.width), param)
            prefix = jnp.concatenate([prefix, storage])
        prefix = spread(prefix, (*patches.shape[:2], *prefix.shape), patches.dtype)
        return jnp.concatenate([prefix, patches], axis=2)
