"""How good the patch features of a backbone are, by all that the images allow."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dinojax.data.map_batches import map_batches
from dinojax.data.pipeline import sequential_batches
from dinojax.data.source import Source
from dinojax.evaluation.features import DenseFeatures
from dinojax.evaluation.locality import drift, locality
from dinojax.evaluation.segmentation import linear_segmentation
from dinojax.typing import Params


class DenseQuality:
    """Scores backbones: `locality` and `drift` of held-out images, and `miou` where there are maps.

    Args:
        encode: ``(backbone parameters, canvas, size) -> DenseFeatures``, jitted.
        train: images that a linear head is fitted on; used only with `classes`.
        held_out: images that everything is scored on.
        classes: of the maps; empty: there are none.
        image_px: the side that `encode` crops to.
        reading: of both, ``batch``, ``canvas_px`` and what else both kinds of batches take.
    """

    def __init__(
        self,
        encode: Callable[..., DenseFeatures],
        train: Source,
        held_out: Source,
        *,
        classes: Sequence[int],
        image_px: int,
        ridge: float,
        reading: dict[str, Any],
    ):
        self._encode, self._train, self._held_out = encode, train, held_out
        self._classes, self._image_px, self._ridge = classes, image_px, ridge
        self._reading = reading

    def __call__(self, params: Params) -> dict[str, float]:
        """Means over images, and the mIoU of `dinojax.evaluation.segmentation`.

        Raises:
            ValueError: no held-out image can be read.
        """

        def encode(canvas: Any, size: Any) -> DenseFeatures:
            return self._encode(params, canvas, size)

        found: list[tuple[Any, ...]] = []
        with contextlib.closing(sequential_batches(self._held_out, **self._reading)) as batches:
            for batch in batches:
                features, valid = encode(batch["canvas"], batch["size"]), batch["valid"]
                values = locality(features.patches), drift(*features)
                found.append(tuple(np.asarray(value)[valid] for value in values))
        local, towards = (np.concatenate(values) for values in zip(*found, strict=True))
        if not len(local):
            raise ValueError("none of the held-out images can be read; restore them")
        scores = {"locality": float(local.mean()), "drift": float(towards.mean())}
        if self._classes:
            with (
                contextlib.closing(map_batches(self._train, **self._reading)) as train,
                contextlib.closing(map_batches(self._held_out, **self._reading)) as test,
            ):
                segmented = linear_segmentation(
                    encode,
                    train,
                    test,
                    classes=self._classes,
                    image_px=self._image_px,
                    ridge=self._ridge,
                )
            scores["miou"] = segmented.miou
        return scores
