"""Crops of an image from its canvas and its drawn choices.

Order of the reference: colour shared by all crops; cut, resize, flip; colour jitter, greyscale,
blur, solarize; normalise. Everything before the last is in float grey levels, clipped to 0..255.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.typing import Array, Float, Int, Key, UInt8
from dinojax.views.blur import gaussian_blur
from dinojax.views.boxes import largest_side
from dinojax.views.colour import color_jitter, normalise, solarize, to_grey
from dinojax.views.params import Colour, CropParams, Geometry, Photometric, sample_params
from dinojax.views.recipe import ViewRecipe, validate
from dinojax.views.resample import resize, resized_crop


class Crops(NamedTuple):
    """Normalised crops, views first; in a batch ``[V, B, S, S, C]``, of which only B is sharded."""

    global_crops: Float[Array, "V *B S S C"]
    local_crops: Float[Array, "v *B s s C"]
    gram_crops: Float[Array, "V *B Sg Sg C"] | None
    teacher_crops: Float[Array, "V *B S S C"] | None
    """Where the teacher does not see `global_crops`: the same cuts without distortions."""


def make_crops(
    canvas: UInt8[Array, "B H W C"],
    size_hw: Int[Array, "B 2"],
    keys: Key,
    recipe: ViewRecipe,
    *,
    dtype: DTypeLike = float,
) -> Crops:
    """All crops of a batch; those of image i depend on its canvas, its size and its key alone.

    The image occupies the top left ``size_hw`` pixels of its canvas, the padding is never read.
    Crops are `dtype`, the choices are the same for every dtype. In `jax.jit` the recipe is static.

    Raises:
        ValueError: the recipe contradicts itself or the number of channels.
    """
    validate(recipe, canvas.shape[-1])

    def one(canvas: Array, size_hw: Array, key: Key) -> Crops:
        params = sample_params(key, size_hw, recipe)
        return render(canvas, size_hw, params, recipe, dtype=dtype)

    return jax.vmap(one, out_axes=1)(canvas, size_hw, keys)


def render(
    canvas: UInt8[Array, "H W C"],
    size_hw: Int[Array, "2"],
    params: CropParams,
    recipe: ViewRecipe,
    *,
    dtype: DTypeLike = float,
) -> Crops:
    """The crops of one image for given choices; maths only, nothing is drawn."""
    image = canvas
    if params.shared_colour is not None:
        inside = [jnp.arange(n) < size for n, size in zip(canvas.shape[:2], size_hw, strict=True)]
        content = (inside[0][:, None] & inside[1])[..., None]
        image = _distort_colour(canvas.astype(dtype), params.shared_colour, content)

    bases = _cut(
        image, params.global_geometry, recipe.base_crop_px, recipe.global_crops_scale, dtype
    )
    global_crops, gram_crops = _render_global(bases, params, recipe)
    if recipe.localcrops_subset_of_globalcrops:
        local_crops = _render_subset(bases, params, recipe)
    else:
        cuts = _cut(
            image, params.local_geometry, recipe.local_crops_size, recipe.local_crops_scale, dtype
        )
        local_crops = _normalised(jax.vmap(distort)(cuts, params.photometric[2]), recipe)
    teacher_crops = None
    if recipe.teacher_no_color_jitter:
        teacher_crops = _normalised(_shrink(bases, recipe.global_crops_size), recipe)
    return Crops(global_crops, local_crops, gram_crops, teacher_crops)


def distort(crop: Float[Array, "S S C"], params: Photometric) -> Float[Array, "S S C"]:
    """The photometric part of one crop's chain."""
    if params.colour is not None:
        crop = _distort_colour(crop, params.colour)
    if params.blur_sigma is not None:
        crop = gaussian_blur(crop, params.blur_sigma)
    if params.solarize is not None:
        crop = jnp.where(params.solarize, solarize(crop), crop)
    return crop


def _normalised(images: Float[Array, "*b H W C"], recipe: ViewRecipe) -> Float[Array, "*b H W C"]:
    return normalise(images, recipe.rgb_mean, recipe.rgb_std)


def _render_global(
    bases: Float[Array, "2 S S C"], params: CropParams, recipe: ViewRecipe
) -> tuple[Float[Array, "2 s s C"], Float[Array, "2 Sg Sg C"] | None]:
    def views(crops: Float[Array, "2 S S C"]) -> Float[Array, "2 S S C"]:
        # The two crops have different chains: neither pays for what only the other applies.
        chains = zip(crops, params.photometric[:2], strict=True)
        return _normalised(jnp.stack([distort(crop, chain) for crop, chain in chains]), recipe)

    gram_px = recipe.gram_teacher_crops_size
    if gram_px is None:
        return views(bases), None
    if recipe.gram_teacher_no_distortions:
        student = views(_shrink(bases, recipe.global_crops_size))
        return student, _normalised(_shrink(bases, gram_px), recipe)
    # Distorted at the larger size, normalised, and only then resized, as float tensors.
    large = views(bases)

    def sized(px: int) -> Array:
        return large if px == recipe.base_crop_px else resize(large, (px, px))

    return sized(recipe.global_crops_size), sized(gram_px)


def _render_subset(
    bases: Float[Array, "2 S S C"], params: CropParams, recipe: ViewRecipe
) -> Float[Array, "v s s C"]:
    # Contrast and blur see the whole global crop, so each local crop distorts a full copy.
    copies = jnp.repeat(bases, recipe.local_crops_number // 2, axis=0)
    distorted = _normalised(jax.vmap(distort)(copies, params.photometric[2]), recipe)
    shape = (recipe.local_crops_size, recipe.local_crops_size, bases.shape[-1])

    def cut(crop: Array, box: Array) -> Array:
        return jax.lax.dynamic_slice(crop, (box[0], box[1], jnp.zeros_like(box[0])), shape)

    return jax.vmap(cut)(distorted, params.local_geometry.box)


def _cut(
    image: UInt8[Array, "H W C"] | Float[Array, "H W C"],
    geometry: Geometry,
    out_px: int,
    scale: tuple[float, float],
    dtype: DTypeLike,
) -> Float[Array, "V S S C"]:
    window_px = largest_side(max(image.shape[:2]), scale)

    def cut(geometry: Geometry) -> Float[Array, "S S C"]:
        return resized_crop(
            image, geometry.box, out_px, flip=geometry.flip, window_px=window_px, dtype=dtype
        )

    return jax.vmap(cut)(geometry)


def _shrink(bases: Float[Array, "2 S S C"], out_px: int) -> Float[Array, "2 s s C"]:
    side = bases.shape[1]
    if out_px == side:
        return bases
    whole = jnp.asarray((0, 0, side, side))
    return jax.vmap(lambda base: resized_crop(base, whole, out_px))(bases)


def _distort_colour(
    image: Float[Array, "H W C"], colour: Colour, content: Array | None = None
) -> Float[Array, "H W C"]:
    factors = colour.factors.astype(image.dtype)
    image = color_jitter(image, factors, colour.order, content=content)
    return jnp.where(colour.grey, to_grey(image), image)
