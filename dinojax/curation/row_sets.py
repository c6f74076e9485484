"""Rows of several folders for a stage of one process: sorted on disk for as long as it takes.

They lie next to the stage's folder, in ``STAGE_rows/NUMBER`` (`dinojax.curation.sorted_rows`). What
is left there in the end says of which files they were, so that these are not read again.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from dinojax.curation.embeddings import Listing, RowsOptions, list_records
from dinojax.curation.parts import Rows
from dinojax.curation.progress_bar import progress_bar
from dinojax.curation.sorted_rows import SortedRows, drop_rows, find_sorted, made_of, sort_rows
from dinojax.curation.stage_folder import REPORT, check_same, claim, read_inputs


class RowSet(NamedTuple):
    """Which rows, before they are read."""

    given: RowsOptions
    name: str
    """Of these options in the configuration, for messages."""
    listing: Listing


class Claimed(NamedTuple):
    """A folder and the rows for it."""

    report: dict[str, Any] | None
    """None: it is not done."""
    rows: list[Rows]
    """Of each set; gone if there is a report."""


def list_set(given: RowsOptions, name: str) -> RowSet:
    """Raises: as `list_records`."""
    return RowSet(given, name, list_records(given, name))


def claim_rows(
    folder: Path,
    inputs: Mapping[str, Any],
    sets: Sequence[RowSet],
    named: Callable[[list[str]], dict[str, Any]],
) -> Claimed:
    """`claim` the folder for inputs and rows, which are sorted unless they are already.

    What differs from an earlier call and is known without sorting is refused before.

    Args:
        named: further inputs, of the fingerprint of each set.

    Raises:
        ValueError: a folder of others, or numbers that are not finite.
    """
    before = read_inputs(folder)
    if before is not None:
        check_same(folder, before, {**before, **inputs})
    done, found, new = (folder / REPORT).exists(), [], []
    for number, one in enumerate(sets):
        place = shelf_of(folder) / str(number)
        old = find_sorted(place)
        origin = made_of(one.given, one.name, unit_rows=False)
        if old is None or old.made_of != origin or not (done or old.rows.exists()):
            old = _sorted(one, place, folder.name)
            new.append(place)
        found.append(old)
    try:
        report = claim(folder, {**inputs, **named([one.fingerprint for one in found])})
    except ValueError:
        for place in new:
            shutil.rmtree(place)
        raise
    if report is not None:
        drop_sets(folder)
    return Claimed(report, [one.rows for one in found])


def _sorted(one: RowSet, place: Path, stage: str) -> SortedRows:
    count = len(one.listing.ids)
    logging.info("%s: %d rows are sorted into %s", stage, count, place)
    with progress_bar(f"{stage}: sort", 2 * count, "moves of rows") as bar:
        return sort_rows(
            one.given, one.name, one.listing, place, unit_rows=False, on_rows=bar.update
        )


def shelf_of(folder: Path) -> Path:
    """Where the rows for a stage's folder are."""
    return folder.with_name(f"{folder.name}_rows")


def drop_sets(folder: Path) -> None:
    """Give the space of the rows back, once the stage is done."""
    for place in shelf_of(folder).iterdir():
        drop_rows(place)
