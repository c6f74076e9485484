"""The choices behind one image's crops, in words and numbers that fit into JSON."""

from typing import Any

import jax
import numpy as np

from dinojax.views.colour import IDENTITY
from dinojax.views.params import Colour, CropParams, Geometry, Photometric
from dinojax.views.recipe import ViewRecipe

FACTORS = ("brightness", "contrast", "saturation", "hue")
WHOLE_IMAGE = "image"


def describe(params: CropParams, recipe: ViewRecipe) -> list[dict[str, Any]]:
    """One dict per crop: global 1, global 2, local 1, ...

    Args:
        params: of one image, on the host, as `sample_params` returns them.

    ``box`` is (top, left, height, width) in pixels of ``within``: the image, or the global crop
    that the local one is a part of. Operations that are not applied have their neutral values.
    """
    views = [
        _view(f"global {i + 1}", params.global_geometry, i, params.photometric[i], params)
        for i in range(2)
    ]
    number = recipe.local_crops_number
    for i in range(number):
        photometric = jax.tree.map(lambda leaf, i=i: leaf[i], params.photometric[2])
        view = _view(f"local {i + 1}", params.local_geometry, i, photometric, params)
        if recipe.localcrops_subset_of_globalcrops:
            view["within"] = f"global {1 + i // (number // 2)}"
        views.append(view)
    return views


def _view(
    name: str, geometry: Geometry, i: int, photometric: Photometric, params: CropParams
) -> dict[str, Any]:
    colour = params.shared_colour or photometric.colour or _neutral()
    flip, sigma, solarize = geometry.flip, photometric.blur_sigma, photometric.solarize
    return {
        "view": name,
        "within": WHOLE_IMAGE,
        "box": geometry.box[i].tolist(),
        "flip": flip is not None and bool(flip[i]),
        **{f: float(v) for f, v in zip(FACTORS, colour.factors, strict=True)},
        "order": [FACTORS[operation] for operation in colour.order.tolist()],
        "grey": bool(colour.grey),
        "blur_sigma": 0.0 if sigma is None else float(sigma),
        "solarize": solarize is not None and bool(solarize),
    }


def _neutral() -> Colour:
    return Colour(np.array(IDENTITY), np.arange(4), np.array(False))  # type: ignore[arg-type]
