"""A folder of shards in the making: planned, written shard by shard, finished by its manifest.

A shard counts when its report is there, the folder when its manifest is. Both appear by a rename,
so a process may be killed anywhere.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging
from tqdm import tqdm

from dinojax.data.manifest import INDEX, MANIFEST, PARTS, Manifest
from dinojax.data.pipeline import default_threads
from dinojax.data.shard_writer import ShardReport, write_shard
from dinojax.data.source import Source
from dinojax.data.stored import Encoding
from dinojax.data.tally import Tally
from dinojax.data.tfds_export import shard_name, write_tfds_metadata
from dinojax.runtime.atomic import replace_text
from dinojax.runtime.lock import FILE as LOCK

SHOWN = 3


def begin_or_continue(folder: Path, plan: dict[str, Any]) -> None:
    """Keep the plan in a new or empty folder, or check that a begun one has the same.

    Raises:
        ValueError: the folder holds something else.
    """
    path = folder / PARTS / "plan.json"
    if path.exists():
        check_same(folder, plan, json.loads(path.read_text(encoding="utf-8")))
        return
    if any(entry.name not in (PARTS, LOCK) for entry in folder.iterdir()):
        raise ValueError(f"out={folder} holds other files; give a new or empty folder")
    path.parent.mkdir(exist_ok=True)
    replace_text(path, json.dumps(plan))


def check_same(folder: Path, plan: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse what was begun with another plan. The data may have moved: its fingerprint counts.

    Raises:
        ValueError: another fingerprint or other options.
    """
    for name in ("fingerprint", "options"):
        if plan[name] != found[name]:
            raise ValueError(
                f"out={folder} belongs to source {found['source']} with {name} {found[name]}, and "
                f"{plan['source']} has {plan[name]}; give another folder, or the same options"
            )


def write_shards(
    source: Source,
    folder: Path,
    plan: dict[str, Any],
    bad_budget: float,
    num_threads: int | None,
) -> list[ShardReport]:
    """Write the shards that are not finished, and return the reports of all in order.

    Raises:
        ValueError: more than a share of `bad_budget` of the records cannot be read.
    """
    options = dict(plan["options"])
    count = options.pop("shards")
    encoding = Encoding(**options)
    allowed = int(bad_budget * len(source))
    reports: list[ShardReport] = []
    with (
        tqdm(total=len(source), unit=" images", desc=folder.name) as bar,
        ThreadPoolExecutor(num_threads or default_threads()) as pool,
    ):
        for number in range(count):
            path = folder / shard_name(number, count)
            report_path = folder / PARTS / f"{number:05d}.json"
            indices = range(len(source) * number // count, len(source) * (number + 1) // count)
            report = _read_report(report_path, path)
            if report is not None:
                bar.update(len(indices))
            else:
                report = write_shard(
                    source, indices, str(path), encoding=encoding, pool=pool, on_record=bar.update
                )
                # The report is what makes the shard count as finished.
                replace_text(report_path, json.dumps(report.to_json()))
            reports.append(report)
            _check_budget([bad for report in reports for bad in report.skipped], allowed)
    return reports


def _read_report(report_path: Path, path: Path) -> ShardReport | None:
    """What was reported of a finished shard; None: it is not finished, or no longer there."""
    if not (report_path.exists() and path.exists()):
        return None
    report = ShardReport.from_json(json.loads(report_path.read_text(encoding="utf-8")))
    return report if report.shard.bytes == path.stat().st_size else None


def _check_budget(skipped: list[dict[str, str]], allowed: int) -> None:
    if len(skipped) > allowed:
        causes = "; ".join(bad["cause"] for bad in skipped[:SHOWN])
        more = "; ..." if len(skipped) > SHOWN else ""
        raise ValueError(
            f"{len(skipped)} records cannot be read, and bad_budget allows {allowed}: {causes}"
            f"{more}; raise bad_budget and run again, or remove them and give a new folder"
        )


def finish(
    folder: Path,
    plan: dict[str, Any],
    class_names: list[str] | None,
    reports: list[ShardReport],
) -> None:
    """Write what describes the shards; the manifest, last, makes the folder complete."""
    tally = sum((report.tally for report in reports), Tally())
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
    if tally.tfds_images == tally.records:
        write_tfds_metadata(str(folder), manifest, tally)
    else:
        logging.warning(
            "%s: TFDS would read %d of %d images with other values or not at all, so it gets no "
            "dataset_info.json; array_record:%s reads them",
            folder,
            tally.records - tally.tfds_images,
            tally.records,
            folder,
        )
    for draft in folder.glob(f".{MANIFEST}.*"):  # of a process that was killed right here
        draft.unlink()
    replace_text(folder / MANIFEST, manifest.to_json())
