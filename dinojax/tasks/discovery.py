"""Objects found without training: the share of images with a good box (CorLoc)."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dinojax.data.map_batches import NO_CLASS, map_batches
from dinojax.evaluation.discovery import lost, tokencut
from dinojax.evaluation.features import centre_maps, make_dense_encoder
from dinojax.evaluation.object_boxes import Box, corloc, map_boxes
from dinojax.tasks.task import Evaluation, Score, Task
from dinojax.typing import Float

METHODS = ("tokencut", "lost")


@dataclass(frozen=True)
class DiscoveryProtocol:
    """Held-out images at images.image_px; objects are the regions of their segmentation.

    ``corloc_of_whole_image`` is what a box around everything scores: where objects are large, or
    touch, there is little to discover."""

    method: str = "tokencut"
    """"tokencut" or "lost"."""
    threshold: float = 0.2
    """Of TokenCut: the cosine above which patches are similar."""
    most_seeds: int = 100
    """Of LOST."""
    ignored: tuple[int, ...] = (0,)
    """Numbers in the maps that are no objects."""
    least_area: float = 0.001
    """Share of the image below which a region is none."""


def _run(protocol: DiscoveryProtocol, evaluation: Evaluation) -> Iterator[Score]:
    find = _method(protocol)
    encoder, side_px = evaluation.encoder, evaluation.preparation.image_px
    encode = make_dense_encoder(
        encoder.backbone, image_px=side_px, mean=encoder.mean, std=encoder.std
    )
    found, true = [], []
    with contextlib.closing(map_batches(evaluation.records.test, **evaluation.reading)) as batches:
        for batch in batches:
            patches = encode(encoder.params, batch["canvas"], batch["size"]).patches
            maps = centre_maps(batch["segmentation"], batch["size"], side_px)
            for features, map, valid in zip(
                np.asarray(patches), np.asarray(maps), batch["valid"], strict=True
            ):
                if valid:
                    ignored = (*protocol.ignored, NO_CLASS)
                    least = int(protocol.least_area * side_px**2)
                    true.append(map_boxes(map, ignored, max(least, 1)))
                    found.append(find(features, side_px / len(features)))
    yield Score("corloc", corloc(found, true))
    whole = (0.0, 0.0, float(side_px), float(side_px))
    yield Score("corloc_of_whole_image", corloc([whole] * len(true), true))


def _method(protocol: DiscoveryProtocol) -> Callable[[Float[np.ndarray, "h w D"], float], Box]:
    match protocol.method:
        case "tokencut":
            return lambda patches, cell_px: tokencut(patches, cell_px, protocol.threshold)
        case "lost":
            return lambda patches, cell_px: lost(patches, cell_px, protocol.most_seeds)
        case _:
            raise ValueError(
                f"discovery.method={protocol.method!r} is unknown; use one of {METHODS}"
            )


DISCOVERY = Task(DiscoveryProtocol, frozenset({"segmentation"}), _run, cuts=False)
