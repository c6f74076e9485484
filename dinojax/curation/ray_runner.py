"""Tables on Ray Data: their shards are blocks in the memory of a cluster, which spills to disks."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import ray
import ray.data

from dinojax.curation.runners import Function, shard_of
from dinojax.curation.tables import GROUP_ROWS, pieces, read_piece

SHARD = "_shard"
"""The column by which rows that belong together meet."""


@dataclass(frozen=True)
class RayTables:
    """A data set of Ray, which does nothing before its rows are wanted."""

    rows: ray.data.Dataset
    shards: int

    def map(self, function: Function) -> "RayTables":
        return RayTables(_mapped(self.rows, function), self.shards)

    def by_key(self, key: str, function: Function, *others: "RayTables") -> "RayTables":
        whole = self.rows.union(*(tables.rows for tables in others)) if others else self.rows
        sent = _mapped(whole, functools.partial(_send, key=key, count=self.shards))
        met = sent.groupby(SHARD, num_partitions=self.shards)
        given = functools.partial(_receive, function=function)
        return RayTables(met.map_groups(given, batch_format="pyarrow"), self.shards)

    def held(self) -> "RayTables":
        return RayTables(self.rows.materialize(), self.shards)

    def all(self) -> pa.Table:
        return pa.concat_tables(self.rows.iter_batches(batch_size=None, batch_format="pyarrow"))

    def sorted(self, key: str) -> Iterator[pa.Table]:
        yield from self.rows.sort(key).iter_batches(batch_size=GROUP_ROWS, batch_format="pyarrow")


class Ray:
    """Uses the Ray that this process is connected to, or connects to one, until it is left."""

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.connected = False

    def __enter__(self) -> "Ray":
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False)
            self.connected = True
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True  # of what has been sorted
        return self

    def __exit__(self, *failure: object) -> None:
        if self.connected:
            ray.shutdown()

    def read(self, path: Path, columns: Sequence[str]) -> RayTables:
        groups = pieces(path)
        read = functools.partial(read_piece, path=path.absolute(), columns=columns)
        return RayTables(_mapped(ray.data.from_arrow(groups), read), len(groups))


def _mapped(rows: ray.data.Dataset, function: Function) -> ray.data.Dataset:
    return rows.map_batches(function, batch_size=None, batch_format="pyarrow")


def _send(table: pa.Table, key: str, count: int) -> pa.Table:
    return table.append_column(SHARD, pa.array(shard_of(table, key, count)))


def _receive(table: pa.Table, function: Function) -> pa.Table:
    return function(table.drop_columns([SHARD]))
