"""Any source to shards: ``python -m dinojax.prepare --source=folder:/data/raw --out=/data/in1k``.

The shards are ArrayRecord, which training reads in any order at full speed
(``--config.data.source=array_record:/data/in1k``) and TFDS reads too. Run the same command again to
continue after an interruption: finished shards stay, the others come out the same, byte for byte.
"""

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from dinojax import command
from dinojax.data.check import fingerprint
from dinojax.data.manifest import MANIFEST, PARTS, Manifest, read_manifest
from dinojax.data.open import open_source
from dinojax.data.shard_writer import estimate_bytes
from dinojax.data.stored import Encoding
from dinojax.prepare_folder import begin_or_continue, check_same, finish, write_shards
from dinojax.runtime.exits import STOPS, leave
from dinojax.runtime.lock import locked

OPTIONS = (
    *("shards", "shard_mb", "max_side_px", "quality", "channels"),
    *("bad_budget", "num_threads"),
)
"""Flags that are arguments of `prepare`."""


def prepare(
    source: str,
    out: str,
    *,
    shards: int | None = None,
    shard_mb: int = 256,
    max_side_px: int = 512,
    quality: int = 95,
    channels: int = 3,
    bad_budget: float = 0.001,
    num_threads: int | None = None,
) -> Manifest:
    """Write all records of `source` to shards in `out`, or finish what an earlier call began.

    Args:
        source: ``kind:path``, as in `dinojax.data.open.open_source`.
        out: a new or empty folder, or one of the same source and options.
        shards: their number; None: so many that each has about `shard_mb` megabytes.
        max_side_px: larger images are shrunk and encoded again; 0: none are.
        quality: of images encoded again, 1..100.
        channels: that a run will read, `student.in_chans`.
        bad_budget: the share of records that may be unreadable and left out.
        num_threads: that decode and encode; None: one per core.

    Raises:
        ValueError: an option outside its range, a folder of other data, or too many unreadable
            records.
        FileNotFoundError: the source does not exist.
        dinojax.data.threads.StorageError: the storage fails; the same call goes on from there.
    """
    for name, value, low, high, working in (
        ("shards", 1 if shards is None else shards, 1, 99_999, 16),
        ("shard_mb", shard_mb, 1, 2**20, 256),
        ("max_side_px", max_side_px, 0, 2**16, 512),
        ("quality", quality, 1, 100, 95),
        ("channels", channels, 1, 2**16 - 1, 3),
        ("bad_budget", bad_budget, 0, 1, 0.001),
        ("num_threads", 1 if num_threads is None else num_threads, 1, 1024, 8),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name}={value} must lie in {low}..{high}; use {working}")
    records = open_source(source)
    encoding = Encoding(max_side_px, quality, channels)
    size_mb = estimate_bytes(records, encoding) / 1e6
    count = shards or max(1, round(size_mb / shard_mb))
    plan = {
        "source": source,
        "fingerprint": fingerprint(records).digest,
        "options": {**dataclasses.asdict(encoding), "shards": min(count, len(records))},
    }
    folder = Path(out)
    with locked(folder, "dinojax.prepare"):
        if not (folder / MANIFEST).exists():
            begin_or_continue(folder, plan)
            reports = write_shards(records, folder, plan, bad_budget, num_threads)
            finish(folder, plan, records.class_names, reports)
        manifest = read_manifest(out)
        check_same(folder, plan, {name: getattr(manifest, name) for name in plan})
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    return manifest


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        command.refuse(f"unknown arguments {list(argv[1:])}; options start with --")
    values = flags.FLAGS
    options = {name: getattr(values, name) for name in OPTIONS}
    try:
        manifest = prepare(values.source, values.out, **options)
    except STOPS as error:
        print(f"dinojax.prepare: {error}", file=sys.stderr)
        leave(error)
    for name, value in (
        ("records", manifest.records),
        ("left out", len(manifest.skipped)),
        ("encoded again", manifest.reencoded),
        ("shards", len(manifest.shards)),
        ("megabytes", round(manifest.bytes / 1e6, 1)),
        ("mean", [round(value, 4) for value in manifest.mean]),
        ("std", [round(value, 4) for value in manifest.std]),
        ("train with", training_flags(values.out, manifest)),
    ):
        print(f"{name:>16}  {value}")


def training_flags(out: str, manifest: Manifest) -> str:
    """What to give `dinojax.train`: where the data are and, unless they are RGB, their channels."""
    flags = [f"data.source=array_record:{out}"]
    if len(manifest.mean) != 3:
        flags += [
            f"student.in_chans={len(manifest.mean)}",
            f"crops.rgb_mean='{_tuple(manifest.mean)}'",
            f"crops.rgb_std='{_tuple(manifest.std)}'",
        ]
    return " ".join(f"--config.{flag}" for flag in flags)


def _tuple(values: Sequence[float]) -> str:
    return str(tuple(float(f"{value:.4g}") for value in values)).replace(" ", "")


if __name__ == "__main__":
    flags.DEFINE_string("source", None, "What to read: kind:path, see docs/data.md.")
    flags.DEFINE_string("out", None, "Folder for the shards.")
    flags.DEFINE_integer("shards", None, "Number of shards; by default from shard_mb.")
    flags.DEFINE_integer("shard_mb", 256, "Size of a shard in megabytes, about.")
    flags.DEFINE_integer("max_side_px", 512, "Shrink images whose longer side exceeds it; 0: none.")
    flags.DEFINE_integer("quality", 95, "JPEG quality of shrunk images.")
    flags.DEFINE_integer("channels", 3, "Of the images: student.in_chans of the run to come.")
    flags.DEFINE_float("bad_budget", 0.001, "Share of records that may be unreadable.")
    flags.DEFINE_integer("num_threads", None, "Decoding threads; by default one per core.")
    flags.mark_flags_as_required(["source", "out"])
    command.run(main)
