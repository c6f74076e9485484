"""Features of the few records that a page shows, and of a part of all for pairs.

They may have gone since a stage read them: then the page has no cosines, and says so.
"""

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from jaxtyping import Float

from dinojax.curation.embeddings import RowsOptions, unit
from dinojax.curation.tables import read_lists
from dinojax.data.ids import SHOWN, read_ids


class Features(NamedTuple):
    """Of some records, scaled to length 1, so that products are cosines."""

    ids: list[str]
    rows: Float[np.ndarray, "n D"]


def there(given: Sequence[RowsOptions]) -> bool:
    """Whether all of these folders, at least one, have files of features now."""
    return bool(given) and all(_files(one) for one in given)


def rows_of(
    given: Sequence[RowsOptions], ids: Collection[str], name: str
) -> dict[str, Float[np.ndarray, " D"]]:
    """Rows of these ids, wherever they are, by id; an id that is there twice has none.

    All ids are looked at; features only where a row group has one of these.

    Args:
        name: of the options in the configuration, for messages.

    Raises:
        ValueError: an id has no row, or there is no such feature.
    """
    listed = _listed(sorted(ids))
    found = _joined([_pick(_open(one, name), _columns(one), listed) for one in given], given)
    unknown = sorted(set(ids) - set(found.ids))
    if unknown:
        raise ValueError(
            f"{name}: {len(unknown)} of the ids that are shown have no row, such as "
            f"{', '.join(map(repr, unknown[:SHOWN]))}; give the features that the stage has read"
        )
    ids_there, times = np.unique(found.ids, return_counts=True)
    once = set(ids_there[times == 1].tolist())
    return {id: row for id, row in zip(found.ids, found.rows, strict=True) if id in once}


def cosine(
    rows: Mapping[str, Float[np.ndarray, " D"]],
    id: str,
    other_rows: Mapping[str, Float[np.ndarray, " D"]],
    other: str,
) -> float | None:
    """None: a row is not known."""
    if id not in rows or other not in other_rows:
        return None
    return float(rows[id] @ other_rows[other])


def some_rows(given: Sequence[RowsOptions], most: int, name: str) -> Features:
    """Of each folder `most` records or fewer: all, or those of files in the order of a hash."""
    parts = []
    for one in given:
        listed = None if one.ids is None else _listed(read_ids(one.ids))
        parts.append(_open(one, name).head(most, columns=_columns(one), filter=listed))
    return _joined(parts, given)


def _pick(opened: ds.Dataset, columns: list[str], wanted: ds.Expression) -> pa.Table:
    schema = pa.schema([opened.schema.field(name) for name in columns])
    parts = [schema.empty_table()]
    for file in opened.get_fragments():
        for group in file.split_by_row_group():
            if group.count_rows(filter=wanted):  # files may have other types
                parts.append(group.to_table(columns=columns, filter=wanted).cast(schema))
    return pa.concat_tables(parts)


def _listed(ids: Collection[str]) -> ds.Expression:
    return ds.field("id").cast(pa.large_string()).isin(pa.array(ids, pa.large_string()))


def _open(given: RowsOptions, name: str) -> ds.Dataset:
    opened = ds.dataset(sorted(_files(given), key=_draw))
    for column in _columns(given):
        if column not in opened.schema.names:
            raise ValueError(
                f"{name}: {given.folder} has no column {column!r}; it has {opened.schema.names}"
            )
    return opened


def _columns(given: RowsOptions) -> list[str]:
    return ["id", given.feature]


def _joined(parts: Sequence[pa.Table], given: Sequence[RowsOptions]) -> Features:
    rows = [read_lists(part[one.feature]) for part, one in zip(parts, given, strict=True)]
    ids = [id for part in parts for id in pc.cast(part["id"], pa.large_string()).to_pylist()]
    return Features(ids, unit(np.concatenate(rows).astype(np.float32)))


def _files(given: RowsOptions) -> list[str]:
    folder = given.folder
    return [] if folder is None else sorted(map(str, Path(folder).glob("[!._]*.parquet")))


def _draw(path: str) -> bytes:
    return blake2b(Path(path).name.encode(), digest_size=8).digest()
