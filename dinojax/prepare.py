"""Any source to shards: ``python -m dinojax.prepare --source=folder:/data/raw --out=/data/in1k``.

The shards are ArrayRecord, which training reads in any order at full speed
(``--config.data.source=array_record:/data/in1k``) and TFDS reads too. Run the same command again to
continue after an interruption: finished shards stay, the others come out the same, byte for byte.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from absl import app, flags
from tqdm import tqdm

from dinojax.data.check import fingerprint
from dinojax.data.manifest import INDEX, MANIFEST, PARTS, Manifest, read_manifest
from dinojax.data.open import open_source
from dinojax.data.pipeline import default_threads
from dinojax.data.shard_writer import ShardReport, count_shards, write_shard
from dinojax.data.source import Source
from dinojax.data.tally import Tally
from dinojax.data.tfds_export import shard_name, write_tfds_metadata
from dinojax.runtime.atomic import replace_text

SHOWN = 3


def prepare(
    source: str,
    out: str,
    *,
    shards: int | None = None,
    shard_mb: int = 256,
    max_side_px: int = 512,
    quality: int = 95,
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
        bad_budget: the share of records that may be unreadable and left out.
        num_threads: that decode and encode; None: one per core.

    Raises:
        ValueError: an option outside its range, a folder of other data, or too many unreadable
            records.
        FileNotFoundError: the source does not exist.
    """
    for name, value, low, high, working in (
        ("shards", 1 if shards is None else shards, 1, 99_999, 16),
        ("shard_mb", shard_mb, 1, 2**20, 256),
        ("max_side_px", max_side_px, 0, 2**16, 512),
        ("quality", quality, 1, 100, 95),
        ("bad_budget", bad_budget, 0, 1, 0.001),
        ("num_threads", 1 if num_threads is None else num_threads, 1, 1024, 8),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name}={value} must lie in {low}..{high}; use {working}")
    records = open_source(source)
    encoding = {"max_side_px": max_side_px, "quality": quality}
    count = shards or count_shards(records, shard_mb, **encoding)
    plan = {
        "source": source,
        "fingerprint": fingerprint(records),
        "options": {**encoding, "shards": min(count, len(records))},
    }
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if not (folder / MANIFEST).exists():
            _begin_or_continue(folder, plan)
            reports = _write_shards(records, folder, plan, bad_budget, num_threads)
            _finish(folder, plan, records.class_names, reports)
        manifest = read_manifest(out)
        _check_same(folder, plan, {name: getattr(manifest, name) for name in plan})
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    return manifest


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder against a second process; the lock ends with this one."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ValueError(
            f"out={folder} is being written by another dinojax.prepare; wait for it"
        ) from None
    finally:
        os.close(handle)


def _begin_or_continue(folder: Path, plan: dict[str, Any]) -> None:
    path = folder / PARTS / "plan.json"
    if path.exists():
        _check_same(folder, plan, json.loads(path.read_text(encoding="utf-8")))
        return
    if any(entry.name != PARTS for entry in folder.iterdir()):
        raise ValueError(f"out={folder} holds other files; give a new or empty folder")
    path.parent.mkdir(exist_ok=True)
    replace_text(path, json.dumps(plan))


def _check_same(folder: Path, plan: dict[str, Any], found: dict[str, Any]) -> None:
    """The data may have moved: what counts is the fingerprint."""
    for name in ("fingerprint", "options"):
        if plan[name] != found[name]:
            raise ValueError(
                f"out={folder} belongs to source {found['source']} with {name} {found[name]}, and "
                f"{plan['source']} has {plan[name]}; give another folder, or the same options"
            )


def _write_shards(
    source: Source,
    folder: Path,
    plan: dict[str, Any],
    bad_budget: float,
    num_threads: int | None,
) -> list[ShardReport]:
    """The reports of all shards, in order; those that are finished are not touched."""
    count = plan["options"]["shards"]
    encoding = {name: plan["options"][name] for name in ("max_side_px", "quality")}
    allowed = int(bad_budget * len(source))
    reports: list[ShardReport] = []
    with (
        tqdm(total=len(source), unit=" images", desc=folder.name) as bar,
        ThreadPoolExecutor(num_threads or default_threads()) as pool,
    ):
        for number in range(count):
            path = str(folder / shard_name(number, count))
            report_path = folder / PARTS / f"{number:05d}.json"
            first, last = (len(source) * n // count for n in (number, number + 1))
            if report_path.exists():
                report = ShardReport.from_json(json.loads(report_path.read_text(encoding="utf-8")))
                bar.update(last - first)
            else:
                report = write_shard(
                    source,
                    range(first, last),
                    str(path),
                    **encoding,
                    pool=pool,
                    on_record=bar.update,
                )
                # The report is what makes the shard count as finished.
                replace_text(report_path, json.dumps(report.to_json()))
            reports.append(report)
            _check_budget([bad for report in reports for bad in report.skipped], allowed)
    return reports


def _check_budget(skipped: list[dict[str, str]], allowed: int) -> None:
    if len(skipped) > allowed:
        causes = "; ".join(bad["cause"] for bad in skipped[:SHOWN])
        more = "; ..." if len(skipped) > SHOWN else ""
        raise ValueError(
            f"{len(skipped)} records cannot be read, and bad_budget allows {allowed}: {causes}"
            f"{more}; raise bad_budget and run again, or remove them and give a new folder"
        )


def _finish(
    folder: Path,
    plan: dict[str, Any],
    class_names: list[str] | None,
    reports: list[ShardReport],
) -> None:
    """Write what describes the shards; the manifest, last, makes the folder complete."""
    tally = sum((report.tally for report in reports), Tally())
    if not tally.records:
        raise ValueError(f"no record of {plan['source']} can be read; give another source")
    manifest = Manifest(
        **plan,
        records=tally.records,
        bytes=sum(report.shard.bytes for report in reports),
        # Numbers, where the source has labels and no names for them.
        class_names=class_names or [str(label) for label in range(tally.labels)] or None,
        mean=tally.mean(),
        std=tally.std(),
        reencoded=tally.reencoded,
        skipped=[bad for report in reports for bad in report.skipped],
        shards=[report.shard for report in reports],
    )
    index = {
        "id": [id for report in reports for id in report.ids],
        "label": pa.array([label for report in reports for label in report.labels], pa.int32()),
    }
    pq.write_table(pa.table(index), folder / INDEX)
    write_tfds_metadata(str(folder), manifest, tally)
    replace_text(folder / MANIFEST, manifest.to_json())


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {list(argv[1:])}; options start with --")
    values = flags.FLAGS
    names = ("shards", "shard_mb", "max_side_px", "quality", "bad_budget", "num_threads")
    try:
        manifest = prepare(
            values.source, values.out, **{name: getattr(values, name) for name in names}
        )
    except (ValueError, OSError) as error:
        print(f"dinojax.prepare: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for name, value in (
        ("records", manifest.records),
        ("left out", len(manifest.skipped)),
        ("encoded again", manifest.reencoded),
        ("shards", len(manifest.shards)),
        ("megabytes", round(manifest.bytes / 1e6, 1)),
        ("mean", [round(value, 4) for value in manifest.mean]),
        ("std", [round(value, 4) for value in manifest.std]),
        ("train with", f"--config.data.source=array_record:{values.out}"),
    ):
        print(f"{name:>16}  {value}")


if __name__ == "__main__":
    flags.DEFINE_string("source", None, "What to read: kind:path, see docs/data.md.")
    flags.DEFINE_string("out", None, "Folder for the shards.")
    flags.DEFINE_integer("shards", None, "Number of shards; by default from shard_mb.")
    flags.DEFINE_integer("shard_mb", 256, "Size of a shard in megabytes, about.")
    flags.DEFINE_integer("max_side_px", 512, "Shrink images whose longer side exceeds it; 0: none.")
    flags.DEFINE_integer("quality", 95, "JPEG quality of shrunk images.")
    flags.DEFINE_float("bad_budget", 0.001, "Share of records that may be unreadable.")
    flags.DEFINE_integer("num_threads", None, "Decoding threads; by default one per core.")
    flags.mark_flags_as_required(["source", "out"])
    app.run(main)
