"""What tasks on whole images start from: CLS of the last layers, and the mean patch of the last."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, cast

import jax
import jax.numpy as jnp

from dinojax.evaluation.features import Canvases, Sizes, centre_box
from dinojax.mesh import split_batch
from dinojax.models.features import Features
from dinojax.models.pixels import Pixels
from dinojax.models.presets import Backbone
from dinojax.models.vit import VisionTransformer
from dinojax.precision import widen
from dinojax.prng import key_for, slot_keys
from dinojax.typing import Array, Bool, Float, Int, Params
from dinojax.views.boxes import BOX_DRAWS, choose_box
from dinojax.views.colour import normalise
from dinojax.views.draws import coin, draw
from dinojax.views.resample import resized_crop

AREA = (0.08, 1.0)
"""Of a random crop, relative to the image; torchvision's default."""


class GlobalFeatures(NamedTuple):
    """Of a batch of images, after the final norm, float32."""

    cls: Float[Array, "b L D"]
    """CLS after each of the last layers, the last one last."""
    mean: Float[Array, "b d"]
    """Of the last layer's patches."""


GlobalEncoder = Callable[[Params, Canvases, Sizes, Int[Array, " b"]], GlobalFeatures]
"""Of parameters, canvases, sizes, and the places of the records in their source."""


def usable_layers(backbone: Backbone | Pixels, wanted: int) -> int:
    """At most `wanted` last layers, of one width: of a ConvNeXt the last stage alone."""
    return min(wanted, backbone.depth) if isinstance(backbone, VisionTransformer) else 1


def make_global_encoder(
    backbone: Backbone | Pixels,
    *,
    layers: int,
    image_px: int,
    resize_px: int,
    fit: Literal["crop", "whole"] = "crop",
    mean: Sequence[float],
    std: Sequence[float],
    view: int | None = None,
) -> GlobalEncoder:
    """Jitted; under `jax.set_mesh` the batch is shared among the devices.

    Args:
        layers: as `usable_layers` says.
        fit: the middle of each image, or all of it resized to a square.
        view: None: as `fit` says. A number: that random crop of it, a function of the
            number and the record's place alone, with the area `AREA`, and mirrored half the time.
    """
    last = None if layers == 1 else range(_depth(backbone) - layers, _depth(backbone))

    @jax.jit
    def encode(
        params: Params, canvas: Canvases, size: Sizes, place: Int[Array, " b"]
    ) -> GlobalFeatures:
        size = jnp.asarray(size)
        boxes, flips = _whole(size)
        if view is not None:
            boxes, flips = _random(size, place, view)
        elif fit == "crop":
            boxes = jax.vmap(lambda one: centre_box(one, image_px, resize_px))(size)
        crops = jax.vmap(lambda canvas, box, flip: resized_crop(canvas, box, image_px, flip=flip))(
            split_batch(jnp.asarray(canvas)), boxes, flips
        )
        images = normalise(crops, mean, std)[None]
        with backbone.precision.exact_products():
            output = (
                backbone.apply({"params": params}, images)
                if last is None
                else backbone.apply({"params": params}, images, last, method="intermediate")
            )
        found = cast(Sequence[Features], output)
        cls = jnp.stack([widen(one.cls[0]) for one in found], axis=1)
        return GlobalFeatures(cls, widen(found[-1].patches[0]).mean(axis=1))

    return encode


def _depth(backbone: Backbone | Pixels) -> int:
    assert isinstance(backbone, VisionTransformer)  # `usable_layers` is 1 for all else
    return backbone.depth


def _whole(size: Int[Array, "b 2"]) -> tuple[Int[Array, "b 4"], Bool[Array, " b"]]:
    """Boxes and no flips."""
    return jnp.pad(size, ((0, 0), (2, 0))), jnp.zeros(len(size), bool)


def _random(
    size: Int[Array, "b 2"], place: Int[Array, " b"], view: int
) -> tuple[Int[Array, "b 4"], Bool[Array, " b"]]:
    def one(key: Array, size: Int[Array, "2"]) -> tuple[Array, Array]:
        unit = draw(key, **BOX_DRAWS, flip=1)
        return choose_box(unit, size, AREA), coin(unit["flip"], 0.5)

    return jax.vmap(one)(slot_keys(key_for(0, view, "evaluation"), place), size)
