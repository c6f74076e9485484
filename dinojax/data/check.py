"""Before a run: are the records readable (`verify`), and are they the same as last time
(`fingerprint`; to be judged by, `truth_digest`)?"""

import contextlib
import json
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from absl import logging

from dinojax.data.load import READ_TIMEOUT_S
from dinojax.data.pipeline import default_threads, sequential_batches
from dinojax.data.reading import read_record
from dinojax.data.source import Source
from dinojax.data.subset import Subset
from dinojax.data.threads import for_each

SHOWN = 3
SAMPLED = 64
CHUNK = 32


def verify(
    source: Source,
    canvas_px: int,
    limit: int = 2048,
    *,
    budget: float = 0.0,
    read_timeout_s: float = READ_TIMEOUT_S,
    channels: int = 3,
) -> int:
    """Read up to `limit` records, evenly spread, as training would, and return how many.

    Args:
        budget: share of them that may be unreadable; those are logged.
        read_timeout_s: seconds that the reading of one record may take.
        channels: of the images.

    Raises:
        ValueError: more cannot be read; names the first few.
        dinojax.data.threads.StorageError: a read takes too long.
    """
    chosen = Subset(source, _spread(len(source), limit))
    batches = sequential_batches(
        chosen, CHUNK, canvas_px, read_timeout_s=read_timeout_s, channels=channels
    )
    with contextlib.closing(batches):
        complaints = [problem.cause for batch in batches for problem in batch["problems"]]
    if complaints:
        more = "; ..." if len(complaints) > SHOWN else ""
        text = (
            f"{len(complaints)} of {len(chosen)} checked records cannot be read: "
            f"{'; '.join(complaints[:SHOWN])}{more}"
        )
        if len(complaints) > budget * len(chosen):
            raise ValueError(f"{text}; remove or replace them")
        logging.warning("%s; others will take their places", text)
    return len(chosen)


class Fingerprint(NamedTuple):
    """What tells one set of records from another."""

    records: str
    """32 hex digits that change with the number, order or ids of the records."""
    images: dict[str, str]
    """16 hex digits of the bytes of up to 64 records, evenly spread, by id."""

    @property
    def digest(self) -> str:
        """32 hex digits of all of it, whatever the order of `images`."""
        text = json.dumps(self, sort_keys=True)
        return blake2b(text.encode(), digest_size=16).hexdigest()


def fingerprint(
    source: Source, mixture: str = "", *, read_timeout_s: float = READ_TIMEOUT_S
) -> Fingerprint:
    """Of the records behind a source; other data under the same names is noticed, too, a single
    changed file may not be. A file that cannot be read counts as empty.

    Args:
        mixture: how parts are mixed, which belongs to the data as well (`Order.mixture`).
        read_timeout_s: seconds that the reading of one image may take.

    Raises:
        dinojax.data.threads.StorageError: a read takes too long, or the storage fails.
    """
    records = blake2b(mixture.encode(), digest_size=16)
    for index in range(len(source)):
        records.update(source.record_id(index).encode() + b"\0")
    chosen = _spread(len(source), SAMPLED)
    images = [b""] * len(chosen)

    def read(place: int) -> None:
        with contextlib.suppress(ValueError, OSError):
            image = read_record(source, chosen[place]).image
            images[place] = image if isinstance(image, bytes) else image.tobytes()

    for_each(
        read,
        len(chosen),
        num_threads=default_threads(),
        limit_s=read_timeout_s,
        describe=lambda place: f"record {source.record_id(chosen[place])!r}",
    )
    digests = {
        source.record_id(index): blake2b(image, digest_size=8).hexdigest()
        for index, image in zip(chosen, images, strict=True)
    }
    return Fingerprint(records.hexdigest(), digests)


def truth_digest(source: Source, *, read_timeout_s: float = READ_TIMEOUT_S) -> str:
    """32 hex digits of what features are judged by: the names of the classes, the labels of all
    records and the maps of up to 64, evenly spread. Ids and images do not tell of new ones.

    A source with classes that knows its labels only with its records (``known_labels``: TFDS does)
    is read whole; nothing is decoded. A record that cannot be read counts as without.

    Raises:
        dinojax.data.threads.StorageError: a read takes too long, or the storage fails.
    """
    known = getattr(source, "known_labels", None)
    labels = np.full(len(source), -1, np.int32) if known is None else known
    chosen = _spread(len(source), SAMPLED)
    places = range(len(source)) if known is None and source.class_names is not None else chosen
    maps: dict[int, list[str]] = {place: [] for place in chosen}

    def read(number: int) -> None:
        place = places[number]
        try:
            record = read_record(source, place)
        except (ValueError, OSError):
            return
        if known is None:
            labels[place] = -1 if record.label is None else record.label
        if place in maps:
            maps[place] = [_hash_map(part) for part in (record.segmentation, record.depth)]

    for_each(
        read,
        len(places),
        num_threads=default_threads(),
        limit_s=read_timeout_s,
        describe=lambda number: f"record {source.record_id(places[number])!r}",
    )
    text = json.dumps([source.class_names, labels.tolist(), [maps[place] for place in chosen]])
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _hash_map(part: np.ndarray | bytes | None) -> str:
    if part is None:
        return ""
    data = (
        part if isinstance(part, bytes) else f"{part.dtype}{part.shape}".encode() + part.tobytes()
    )
    return blake2b(data, digest_size=8).hexdigest()


def _spread(count: int, limit: int) -> list[int]:
    """Up to `limit` distinct indices from first to last."""
    chosen = min(count, limit)
    return (np.arange(chosen) * (count - 1) // max(chosen - 1, 1)).tolist()
