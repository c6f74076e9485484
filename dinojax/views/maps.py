"""Segmentation and depth of the crops: maps cut by the boxes and flips of their image.

Each pixel of a crop takes the value of the one pixel under its middle: class numbers have no
averages, and those of depths would mix in 0, the unknown, and the far side of edges.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dinojax.typing import Array, Bool, Int, Shaped
from dinojax.views.params import CropParams, Geometry
from dinojax.views.recipe import ViewRecipe


class MapCrops(NamedTuple):
    """What the pixels of an image's `Crops` belong to."""

    global_maps: Shaped[Array, "V S S"]
    local_maps: Shaped[Array, "v s s"]


def crop_maps(map: Shaped[Array, "H W"], params: CropParams, recipe: ViewRecipe) -> MapCrops:
    """A map of the canvas, cut as `render` cuts the image for the same choices."""

    def cut(geometry: Geometry, out_px: int) -> Shaped[Array, "V s s"]:
        return jax.vmap(lambda g: crop_map(map, g.box, out_px, flip=g.flip))(geometry)

    global_maps = cut(params.global_geometry, recipe.global_crops_size)
    side = recipe.local_crops_size
    if not recipe.localcrops_subset_of_globalcrops:
        return MapCrops(global_maps, cut(params.local_geometry, side))
    bases = cut(params.global_geometry, recipe.base_crop_px)
    copies = jnp.repeat(bases, recipe.local_crops_number // 2, axis=0)
    window = jax.vmap(lambda base, box: crop_map(base, box, side))
    return MapCrops(global_maps, window(copies, params.local_geometry.box))


def crop_map(
    map: Shaped[Array, "H W"],
    box: Int[Array, "4"],
    out_px: int,
    *,
    flip: Bool[Array, ""] | None = None,
) -> Shaped[Array, "S S"]:
    """The box (top, left, height, width) at the nearest pixels, then mirrored left-right if `flip`.

    The counterpart of `resized_crop`: values, dtype and the 0 of unknown depth are the map's.
    """
    top, left, height, width = box
    rows, columns = top + _nearest(height, out_px), left + _nearest(width, out_px)
    if flip is not None:
        columns = jnp.where(flip, columns[::-1], columns)
    return map[rows][:, columns]


def _nearest(length: Int[Array, ""], out_px: int) -> Int[Array, " out_px"]:
    """Which of `length` pixels lies under the middle of each of `out_px`, in exact integers."""
    i = jnp.arange(out_px)
    # A middle on the border of two pixels, as in every halving, goes to the second one and to the
    # first one in turn. Always the second, as in Pillow, would shift the map by half a pixel.
    return ((2 * i + 1) * length - i % 2) // (2 * out_px)
