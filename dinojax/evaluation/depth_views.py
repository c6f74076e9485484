"""Augmented crops that a depth head is trained on: those of BTS (arXiv:1907.10326), as published.

A frame of the image, without its border, turned by a small angle, a random crop of that, mirrored
or not, with another gamma, brightness and tint. Gamma acts on levels 0..1.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from dinojax.data.map_batches import NO_DEPTH
from dinojax.evaluation.frames import centred, cut, cut_map
from dinojax.evaluation.warp import grid_points, project, rotation, sample, sample_map
from dinojax.typing import Array, Bool, Float, Int, Key, UInt8
from dinojax.views.colour import WHITE
from dinojax.views.draws import between, coin, draw, integer_to


@dataclass(frozen=True)
class DepthViews:
    """How an image and its depth become a training crop; the defaults are NYU's.

    Attributes:
        frame_hw: pixels that the image is resized to, and cut at the middle to their proportions.
        box: top, left, bottom, right in it, within which crops lie; NYU's images have a white rim.
        crop_hw: of the crops.
        rotation_deg: largest angle.
        distort: colours too.
    """

    frame_hw: tuple[int, int] = (480, 640)
    box: tuple[int, int, int, int] = (45, 43, 472, 608)
    crop_hw: tuple[int, int] = (416, 544)
    rotation_deg: float = 2.5
    distort: bool = True

    def __post_init__(self):
        top, left, bottom, right = self.box
        if not (0 <= top < bottom <= self.frame_hw[0] and 0 <= left < right <= self.frame_hw[1]):
            raise ValueError(
                f"box={self.box} must be top, left, bottom, right within frame_hw={self.frame_hw}; "
                f"use {(0, 0, *self.frame_hw)}"
            )
        if self.crop_hw[0] > bottom - top or self.crop_hw[1] > right - left:
            raise ValueError(
                f"crop_hw={self.crop_hw} must fit into box={self.box}; use "
                f"{(bottom - top, right - left)}"
            )

    def __call__(
        self,
        key: Key,
        canvas: UInt8[Array, "H W C"],
        size: Int[Array, "2"],
        depth: Float[Array, "H W"],
    ) -> tuple[Float[Array, "h w C"], Bool[Array, "h w"], Float[Array, "h w"]]:
        """Grey levels, where there is image, and metres (0: unknown)."""
        unit = draw(key, corner=2, turn=2, flip=1, colour=3 + canvas.shape[-1])
        frame = centred(size, self.frame_hw)
        image, _ = cut(canvas, size, frame, self.frame_hw)
        depth = cut_map(depth, size, frame, self.frame_hw, empty=NO_DEPTH)
        top, left, bottom, right = self.box
        image, depth = image[top:bottom, left:right], depth[top:bottom, left:right]
        height, width = self.crop_hw
        corner = integer_to(
            unit["corner"], jnp.array((bottom - top - height, right - left - width))
        )
        points = grid_points(height, width)
        mirrored = points.at[..., 1].set(width - 1 - points[..., 1])
        points = jnp.where(coin(unit["flip"], 0.5), mirrored, points) + corner
        angle = jnp.deg2rad(between(unit["turn"][1], -self.rotation_deg, self.rotation_deg))
        middle = (bottom - top - 1) / 2, (right - left - 1) / 2
        turned = project(rotation(angle, middle), points)
        points = jnp.where(unit["turn"][0] < 0.5, turned, points)
        crop, content = sample(image, points)
        if self.distort:
            crop = distort(crop, unit["colour"])
        return crop, content, sample_map(depth, points, empty=NO_DEPTH)


def distort(image: Float[Array, "h w C"], unit: Float[Array, " n"]) -> Float[Array, "h w C"]:
    """Gamma 0.9..1.1, brightness 0.75..1.25 and a factor 0.9..1.1 per channel, with p = 1/2."""
    gamma, brightness = between(unit[1], 0.9, 1.1), between(unit[2], 0.75, 1.25)
    tint = between(unit[3:], 0.9, 1.1)
    # The power of 0 has no slope that anybody needs, but some compilers make NaN of it.
    shade = jnp.maximum(image / WHITE, 1e-6) ** gamma * brightness * tint
    return jnp.where(unit[0] < 0.5, (WHITE * shade).clip(0, WHITE), image)
