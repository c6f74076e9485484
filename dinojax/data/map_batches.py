"""Images with their segmentation or depth in source order, as dense evaluations take them."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypedDict

import numpy as np
from absl import logging
from jaxtyping import Bool, Float32, Int32

from dinojax.data.decode import to_canvas
from dinojax.data.load import READ_TIMEOUT_S, Canvases, Sizes
from dinojax.data.maps import decode_record, read_segmentation
from dinojax.data.pipeline import default_threads
from dinojax.data.prefetch import AHEAD, iterate
from dinojax.data.reading import read_record
from dinojax.data.source import Source
from dinojax.data.threads import for_each

NO_CLASS = -1
"""Beyond the image, and where a record has no map."""
NO_DEPTH = 0
"""The same for depth, as in `Record`."""
MOST_CLASSES = 1024


class MapBatch(TypedDict):
    """Records in source order.

    Those without a map or unreadable, and those that fill up the last batch, are not `valid`.
    """

    canvas: Canvases
    size: Sizes
    segmentation: Int32[np.ndarray, "b H W"]
    valid: Bool[np.ndarray, " b"]


class DepthBatch(TypedDict):
    """The same with metres per pixel."""

    canvas: Canvases
    size: Sizes
    depth: Float32[np.ndarray, "b H W"]
    valid: Bool[np.ndarray, " b"]


def map_batches(
    source: Source,
    batch: int,
    canvas_px: int,
    read_timeout_s: float = READ_TIMEOUT_S,
    channels: int = 3,
) -> Generator[MapBatch, None, None]:
    """One pass over the source, loading ahead; `close()` as for `dinojax.data.pipeline`.

    Raises:
        ValueError: `batch` below 1; after the last batch: no record was valid.
        dinojax.data.threads.StorageError: a read takes too long, or the storage fails.
    """
    return _iterate("segmentation", source, batch, canvas_px, read_timeout_s, channels)


def depth_batches(
    source: Source,
    batch: int,
    canvas_px: int,
    read_timeout_s: float = READ_TIMEOUT_S,
    channels: int = 3,
) -> Generator[DepthBatch, None, None]:
    """As `map_batches`, of records with depth."""
    return _iterate("depth", source, batch, canvas_px, read_timeout_s, channels)


def _iterate(part: Literal["segmentation", "depth"], source: Source, batch: int, *how: Any) -> Any:
    if batch < 1:
        raise ValueError(f"batch={batch} must be at least 1; use 64")
    return _counted(iterate(_MapBatches(part, source, batch, *how), AHEAD), part, len(source))


def _counted(
    batches: Generator[Any, None, None], part: str, records: int
) -> Generator[Any, None, None]:
    """The batches; after the last one, how many records were left out is told."""
    valid = 0
    with contextlib.closing(batches):
        for batch in batches:
            valid += int(batch["valid"].sum())
            yield batch
    if not valid:
        raise ValueError(
            f"none of {records} records has a readable image and a {part} map of its proportions; "
            "give others with --data"
        )
    if valid < records:
        text = "%d of %d records without a readable image and a %s map of its proportions left out"
        logging.warning(text, records - valid, records, part)


def find_classes(source: Source) -> list[int]:
    """The class numbers that occur in the maps, ascending; empty: there are no maps.

    Raises:
        ValueError: more than `MOST_CLASSES`; such maps number instances.
    """
    found: set[int] = set()
    for index in range(len(source)):
        try:
            map = read_segmentation(read_record(source, index))
        except (ValueError, OSError):  # unreadable, as in `map_batches`
            continue
        if map is not None:
            found.update(np.unique(map).tolist())
        if len(found) > MOST_CLASSES:
            raise ValueError(
                f"the maps up to record {source.record_id(index)!r} hold {len(found)} different "
                f"numbers, more than {MOST_CLASSES}; give maps of classes, not of instances"
            )
    return sorted(found)


@dataclass(frozen=True)
class _MapBatches:
    part: Literal["segmentation", "depth"]
    source: Source
    batch: int
    canvas_px: int
    read_timeout_s: float
    channels: int

    @cached_property
    def _threads(self) -> int:
        return default_threads()

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch)

    def __getitem__(self, step: int) -> Any:
        first = step * self.batch
        count = min(self.batch, len(self.source) - first)
        side = self.canvas_px
        canvas = np.zeros((self.batch, side, side, self.channels), np.uint8)
        size = np.full((self.batch, 2), side, np.int32)
        empty, dtype = (NO_DEPTH, np.float32) if self.part == "depth" else (NO_CLASS, np.int32)
        maps = np.full((self.batch, side, side), empty, dtype)
        valid = np.zeros(self.batch, bool)

        def fill(slot: int) -> None:
            try:
                record = read_record(self.source, first + slot)
                pixels = decode_record(record, side, self.channels)
            except (ValueError, OSError):
                return
            map = getattr(pixels, self.part)
            if map is None:
                return
            size[slot] = to_canvas(pixels.image, canvas[slot])
            height, width = size[slot].tolist()
            maps[slot, :height, :width] = map
            valid[slot] = True

        for_each(
            fill,
            count,
            num_threads=self._threads,
            limit_s=self.read_timeout_s,
            describe=lambda slot: f"record {self.source.record_id(first + slot)!r}",
        )
        return {"canvas": canvas, "size": size, self.part: maps, "valid": valid}
