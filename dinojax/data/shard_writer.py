"""One shard of records, written whole or not at all."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from array_record.python import array_record_module  # type: ignore[attr-defined]

from dinojax.data.array_record import count_records
from dinojax.data.examples import NO_LABEL, to_example
from dinojax.data.manifest import Shard
from dinojax.data.reading import read_record
from dinojax.data.records import Record
from dinojax.data.source import Source
from dinojax.data.stored import Encoding, encode_record
from dinojax.data.tally import Tally, histogram_of
from dinojax.data.tfds_export import is_tfds_image
from dinojax.data.threads import StorageError

WRITER_OPTIONS = "group_size:1,uncompressed"
"""One record per chunk, so that reading one reads no other; images are compressed already."""

SAMPLED = 64
"""Records encoded ahead of all others."""

AHEAD = 128
"""Records that are encoded before the writer asks for them."""


@dataclass(frozen=True)
class ShardReport:
    """A finished shard.

    Attributes:
        shard: the file.
        ids: of its records, in order.
        labels: likewise, -1 for a record without one.
        tally: over its records.
        skipped: ``{"id", "cause"}`` of the records left out.
    """

    shard: Shard
    ids: list[str]
    labels: list[int]
    tally: Tally
    skipped: list[dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "shard": asdict(self.shard), "tally": self.tally.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ShardReport":
        shard, tally = Shard(**values["shard"]), Tally.from_json(values["tally"])
        return cls(**{**values, "shard": shard, "tally": tally})


def estimate_bytes(source: Source, encoding: Encoding) -> float:
    """Of all records as they will be stored, from up to `SAMPLED` of them, evenly spread.

    Raises:
        ValueError: none of those can be read; says why.
        StorageError: the storage fails, as for `read_record`.
    """
    sizes: list[int] = []
    causes: list[str] = []
    for index in np.linspace(0, len(source) - 1, min(SAMPLED, len(source)), dtype=int).tolist():
        try:
            stored = encode_record(read_record(source, index), encoding)
            sizes.append(len(to_example(stored.record)))
        except (ValueError, OSError) as error:  # left out later
            causes.append(str(error))
    if not sizes:
        raise ValueError(f"none of {len(causes)} records tried can be read: {causes[0]}")
    return float(np.mean(sizes)) * len(source)


def write_shard(
    source: Source,
    indices: range,
    path: str,
    *,
    encoding: Encoding,
    pool: ThreadPoolExecutor,
    on_record: Callable[[], object] = lambda: None,
) -> ShardReport:
    """Encode the records of `source` at `indices` into the ArrayRecord file `path`, in that order.

    The file gets its name when it is complete, on disk and found readable; until then it is
    ``PATH.partial``. Its bytes depend on the records and the options alone.

    Args:
        encoding: of the images.
        pool: where records are encoded.
        on_record: called after each record, stored or left out.

    Raises:
        StorageError: a record cannot be read now, or the file cannot be written.
    """

    def encode(index: int) -> tuple[Record, bytes, Tally] | dict[str, str]:
        try:
            record, pixels, shrunk, classes = encode_record(read_record(source, index), encoding)
        except (ValueError, OSError) as error:
            return {"id": source.record_id(index), "cause": str(error)}
        assert isinstance(record.image, bytes)  # encode_record encodes it
        example = to_example(record)
        return (
            record,
            example,
            Tally(
                records=1,
                content_bytes=len(example),
                reencoded=int(shrunk),
                tfds_images=int(is_tfds_image(record.image, encoding.channels)),
                segmentations=int(record.segmentation is not None),
                depths=int(record.depth is not None),
                classes=classes,
                labels=0 if record.label is None else record.label + 1,
                histogram=histogram_of(pixels),
            ),
        )

    draft, tally = f"{path}.partial", Tally()
    ids: list[str] = []
    labels: list[int] = []
    skipped: list[dict[str, str]] = []
    writer = array_record_module.ArrayRecordWriter(draft, WRITER_OPTIONS)
    for outcome in _map_ahead(pool, encode, indices):
        if isinstance(outcome, dict):
            skipped.append(outcome)
        else:
            record, example, counts = outcome
            writer.write(example)
            tally += counts
            ids.append(record.id)
            labels.append(NO_LABEL if record.label is None else record.label)
        on_record()
    writer.close()
    shard = _seal(draft, path, tally.records)
    return ShardReport(shard, ids, labels, tally, skipped)


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[int], Any], indices: range
) -> Iterator[Any]:
    """`pool.map` that keeps at most `AHEAD` results waiting, rather than all of them."""
    todo = iter(indices)
    running = [pool.submit(function, index) for index in itertools.islice(todo, AHEAD)]
    while running:
        yield running.pop(0).result()
        running += [pool.submit(function, index) for index in itertools.islice(todo, 1)]


def _seal(draft: str, path: str, records: int) -> Shard:
    """Give a written file its name, once its bytes are on disk and its records are all there."""
    with open(draft, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    found = count_records(draft) if records else 0
    if found != records:  # the library reports neither a full disk nor a lost write
        raise StorageError(f"{draft} holds {found} of {records} records; is the disk full?")
    size = os.path.getsize(draft)
    os.replace(draft, path)
    return Shard(name=os.path.basename(path), records=records, bytes=size, sha256=digest)
