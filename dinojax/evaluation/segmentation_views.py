"""Augmented crops that a segmentation head is trained on, as the published protocols have them.

Random scale, random crop that no class fills, flip, photometric distortion: those of
MMSegmentation, which DINOv2's and DINOv3's heads are trained with. Two things are cheaper here: the
share of a class in a crop is counted on a grid of `GRID`^2 pixels, and colours are floats. Hues
turn by any angle, as in DINOv3; MMSegmentation turns them by 36 degrees at most.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dinojax.data.map_batches import NO_CLASS
from dinojax.evaluation.frames import Frame, cut, cut_map, shorter_side
from dinojax.typing import Array, Bool, Float, Int, Key, UInt8
from dinojax.views.colour import WHITE, adjust_hue, adjust_saturation
from dinojax.views.draws import between, coin, draw, integer_to

GRID = 64


@dataclass(frozen=True)
class SegmentationViews:
    """How an image and its map become a training crop.

    Attributes:
        crop_px: side of the crops.
        short_px: the shorter side of the image at scale 1.
        scale: range of the scales, uniform.
        largest_share: of a crop's labelled pixels that one class may have...
        tries: ...in so many crops, of which the last is taken otherwise.
        distort: colours too.
    """

    crop_px: int = 512
    short_px: int = 512
    scale: tuple[float, float] = (0.5, 2.0)
    largest_share: float = 0.75
    tries: int = 10
    distort: bool = True

    def __call__(
        self,
        key: Key,
        canvas: UInt8[Array, "H W C"],
        size: Int[Array, "2"],
        labels: Int[Array, "H W"],
        classes: int,
    ) -> tuple[Float[Array, "S S C"], Bool[Array, "S S"], Int[Array, "S S"]]:
        """Grey levels, where there is image, and classes 0..`classes` - 1 (-1: ignored)."""
        unit = draw(key, scale=1, flip=1, corner=2 * self.tries, colour=9)
        short = jnp.rint(between(unit["scale"][0], *self.scale) * self.short_px).astype(jnp.int32)
        resized = shorter_side(size, short)
        room = jnp.maximum(resized - self.crop_px, 0)
        corners = integer_to(unit["corner"].reshape(self.tries, 2), room)
        corner = self._choose(labels, size, resized, corners, classes)
        frame, out = Frame(resized, corner), (self.crop_px, self.crop_px)
        flip = coin(unit["flip"], 0.5)
        crop, content = cut(canvas, size, frame, out, flip=flip)
        if self.distort:
            crop = distort(crop, unit["colour"])
        return crop, content, cut_map(labels, size, frame, out, empty=NO_CLASS, flip=flip)

    def _choose(
        self,
        labels: Int[Array, "H W"],
        size: Int[Array, "2"],
        resized: Int[Array, "2"],
        corners: Int[Array, "n 2"],
        classes: int,
    ) -> Int[Array, "2"]:
        """The first corner whose crop has at least two classes and none that fills it."""
        places = (jnp.arange(GRID) * self.crop_px) // GRID

        def fits(corner: Int[Array, "2"]) -> Bool[Array, ""]:
            at = (corner[:, None] + places) * size[:, None] // resized[:, None]
            inside = corner[:, None] + places < resized[:, None]
            found = labels[at[0].clip(0, size[0] - 1)][:, at[1].clip(0, size[1] - 1)]
            found = jnp.where(inside[0][:, None] & inside[1], found, NO_CLASS)
            # Not a scatter, which is slow on TPUs.
            counts = (found[..., None] == jnp.arange(classes)).sum((0, 1))
            return counts.max() < self.largest_share * counts.sum()

        fitting = jax.lax.map(fits, corners)
        first = jnp.where(fitting.any(), fitting.argmax(), self.tries - 1)
        return corners[first]


def distort(image: Float[Array, "h w C"], unit: Float[Array, "9"]) -> Float[Array, "h w C"]:
    """Brightness, contrast, saturation and hue, each with probability 1/2; grey levels 0..255.

    `unit` are uniform numbers: whether and how much for each, and whether contrast comes last.
    """
    used, amount, late = unit[:4] < 0.5, unit[4:8], unit[8] < 0.5

    def contrast(x: Array, when: Bool[Array, ""]) -> Array:
        gain = jnp.where(used[1] & when, between(amount[1], 0.5, 1.5), 1)
        return (x * gain).clip(0, WHITE)

    shift = jnp.where(used[0], between(amount[0], -32, 32), 0)
    image = contrast((image + shift).clip(0, WHITE), ~late)
    image = adjust_saturation(image, jnp.where(used[2], between(amount[2], 0.5, 1.5), 1))
    if image.shape[-1] == 3:
        image = adjust_hue(image, jnp.where(used[3], between(amount[3], -0.5, 0.5), 0))
    return contrast(image, late)
