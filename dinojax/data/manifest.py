"""`Manifest`: what a folder of shards holds, and whether it is all there."""

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int32

MANIFEST = "manifest.json"
"""Written last: a folder with it is complete."""

INDEX = "index.parquet"
"""Columns ``id`` and ``label`` (-1: none) of all records, in order."""


@dataclass(frozen=True)
class Shard:
    """One file of records."""

    name: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What `python -m dinojax.prepare` wrote.

    Attributes:
        source: the source as it was named, and `fingerprint` what was in it.
        options: that shaped the records; another run with others does not continue this one.
        records: stored, over all shards; the source's without `skipped`.
        bytes: of all shards.
        class_names: by label, or None.
        mean: per channel over all stored pixels, 0..1; `std` likewise.
        reencoded: how many images were shrunk and encoded again.
        skipped: ``{"id", "cause"}`` of the records that could not be read.
    """

    source: str
    fingerprint: str
    options: dict[str, Any]
    records: int
    bytes: int
    class_names: list[str] | None
    mean: list[float]
    std: list[float]
    reencoded: int
    skipped: list[dict[str, str]]
    shards: list[Shard]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def read_manifest(folder: str) -> Manifest:
    """The manifest of a folder whose shards are all there, with their lengths.

    Raises:
        FileNotFoundError: no manifest, or a shard is missing; names it.
        ValueError: a damaged manifest, or a shard of another length.
    """
    path = os.path.join(folder, MANIFEST)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{folder} has no {MANIFEST}; {_advice(folder)}")
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        shards = [Shard(**shard) for shard in values.pop("shards")]
        manifest = Manifest(**values, shards=shards)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a manifest of dinojax.prepare ({error}); prepare the data again"
        ) from error
    for shard in shards:
        at = os.path.join(folder, shard.name)
        if not os.path.isfile(at):
            raise FileNotFoundError(
                f"{at} is missing: {MANIFEST} lists it with {shard.records} records; "
                "copy it again or prepare the data again"
            )
        if os.path.getsize(at) != shard.bytes:
            raise ValueError(
                f"{at} has {os.path.getsize(at)} bytes where {MANIFEST} says {shard.bytes}; "
                "copy it again or prepare the data again"
            )
    return manifest


def read_index_of(
    folder: str, manifest: Manifest
) -> tuple[pa.Array | pa.ChunkedArray, Int32[np.ndarray, " n"]]:
    """(ids, labels) of all records of a prepared folder, in order; label -1: none.

    Raises:
        FileNotFoundError: no index.
        ValueError: it does not list as many records as the manifest counts.
    """
    path = os.path.join(folder, INDEX)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} is missing; copy it again or prepare the data again")
    index = pq.read_table(path, columns=["id", "label"])
    ids = index["id"].combine_chunks()
    if not len(ids) == manifest.records == sum(shard.records for shard in manifest.shards):
        raise ValueError(
            f"{path} lists {len(ids)} records, {MANIFEST} counts {manifest.records} and its shards "
            f"{sum(shard.records for shard in manifest.shards)}; prepare the data again"
        )
    return ids, index["label"].to_numpy().astype(np.int32)


def _advice(folder: str) -> str:
    if os.path.isdir(os.path.join(folder, PARTS)):
        return "dinojax.prepare has not finished it: run the same command again"
    if os.path.isfile(os.path.join(folder, "dataset_info.json")):
        return f"TFDS wrote it: use tfds:{folder}:SPLIT, e.g. tfds:{folder}:train"
    return "give a folder that dinojax.prepare wrote, or a glob of ArrayRecord files"


PARTS = "unfinished"
"""Folder with the plan and the reports of finished shards; gone when the manifest is written."""
