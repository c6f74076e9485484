"""Records onto canvases, and what happens where a record cannot be read.

A training slot whose record is unreadable shows a substitute that depends on (seed, position) and
on which files are bad, and on nothing else: every other slot stays as it is. What was wrong travels
with the batch as data (`Problem`). A storage that fails is another matter: time and luck must never
change a batch, so that stops the run (`StorageError`).
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from dinojax.data.canvases import CanvasMemory
from dinojax.data.channels import Pixels
from dinojax.data.decode import Scratch, make_scratch, read_image, to_canvas
from dinojax.data.reading import read_record
from dinojax.data.records import Record
from dinojax.data.source import Source
from dinojax.data.threads import for_each

MIN_SIDE_PX = 2
"""Images with fewer rows or columns on the canvas count as unreadable: a line has no crops."""

ATTEMPTS = 32
"""Substitutes tried for one slot; with half of the source unreadable, 1 slot in 10^9 needs more."""

READ_TIMEOUT_S = 300.0

Canvases = UInt8[np.ndarray, "b H W C"]
Sizes = Int32[np.ndarray, "b 2"]


class Problem(NamedTuple):
    """A record that could not be read."""

    position: int
    """Where in the run: ``step * global_batch + slot``."""
    attempt: int
    """0: the record of this position; n: its n-th substitute."""
    id: str
    cause: str
    substitute: str | None
    """Id of what the slot shows instead; None: nothing could be read."""


class Loaded(NamedTuple):
    """Images of a batch; slots that hold none are black, of full size and labelled -1."""

    canvas: Canvases
    size: Sizes
    label: Int32[np.ndarray, " b"]
    index: Int64[np.ndarray, " b"]
    """Which record is on the canvas; -1: none."""
    problems: tuple[Problem, ...]


def readable(
    record: Record, canvas_px: int, channels: int = 3, scratch: Scratch | None = None
) -> Pixels:
    """The record's pixels as training takes them; arguments as for `read_image`.

    Raises:
        ValueError: undecodable, or less than `MIN_SIDE_PX` high or wide on the canvas.
    """
    image = read_image(record, canvas_px, channels, scratch)
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE_PX:
        raise ValueError(
            f"record {record.id!r} is {width}x{height} pixels on the canvas; both sides must be at "
            f"least {MIN_SIDE_PX}"
        )
    return image


def substitutes(seed: int, position: int, among: range, attempts: int = ATTEMPTS) -> Iterator[int]:
    """Record indices to try, in this order, for a position whose own record is unreadable.

    Hashes of (seed, position, attempt), uniform over `among`; they may repeat.
    """
    for attempt in range(1, attempts + 1):
        digest = blake2b(f"{seed}/{position}/{attempt}".encode(), digest_size=8).digest()
        yield among[int.from_bytes(digest, "big") % len(among)]


def load(
    source: Source,
    index: Int64[np.ndarray, " n"],
    positions: Sequence[int],
    *,
    batch: int,
    canvas_px: int,
    num_threads: int,
    read_timeout_s: float,
    memory: CanvasMemory,
    channels: int = 3,
    instead: Callable[[int, int], Iterable[int]] = lambda position, index: (),
) -> Loaded:
    """Decode records into a batch, in threads, straight into place.

    Args:
        index: the records of the first n slots; the other ``batch - n`` hold none.
        positions: of these slots, for `instead` and for `Problem`.
        read_timeout_s: seconds that the reading of one slot may take.
        memory: where the canvases will lie.
        channels: of the images.
        instead: (position, record) -> records to try, in this order, if that one is unreadable.

    Raises:
        StorageError: a read takes too long, or fails for a reason that is not the file's.
    """
    canvas = memory.take((batch, canvas_px, canvas_px, channels))
    size = np.full((batch, 2), canvas_px, np.int32)
    label = np.full(batch, -1, np.int32)
    shown = np.full(batch, -1, np.int64)
    reading = index.tolist()
    failures: list[list[tuple[str, str]]] = [[] for _ in range(len(index))]

    thread = threading.local()

    def fill(slot: int) -> None:
        if not hasattr(thread, "scratch"):
            thread.scratch = make_scratch(canvas_px, channels)
        own = int(index[slot])
        for number in itertools.chain([own], instead(positions[slot], own)):
            reading[slot] = number
            try:
                record = read_record(source, number)
                image = readable(record, canvas_px, channels, thread.scratch)
            except (ValueError, OSError) as error:
                failures[slot].append((source.record_id(number), str(error)))
                continue
            size[slot] = to_canvas(image, canvas[slot])
            label[slot] = -1 if record.label is None else record.label
            shown[slot] = number
            return

    for_each(
        fill,
        len(index),
        num_threads=num_threads,
        limit_s=read_timeout_s,
        describe=lambda slot: f"record {source.record_id(reading[slot])!r}",
    )
    canvas[shown < 0] = 0
    problems = []
    for slot, failed in enumerate(failures):
        found = int(shown[slot])
        substitute = source.record_id(found) if failed and found >= 0 else None
        problems += [
            Problem(positions[slot], attempt, name, cause, substitute)
            for attempt, (name, cause) in enumerate(failed)
        ]
    return Loaded(canvas, size, label, shown, tuple(problems))
