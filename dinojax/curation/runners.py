"""What carries the large tables of curation: this process, or an engine that has a cluster.

Stages say what happens to `Tables`, which are divided into shards, by few verbs. The functions that
these are given map a pyarrow table to another one. They must not depend on the order of rows, and
on how rows are divided only where `Tables.by_key` promises it: so every runner leaves the same
bytes, however many machines it has.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from dinojax.curation.tables import pieces, read_piece

Function = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class RunnerOptions:
    """Where tables are joined, grouped and sorted; outcomes do not depend on it."""

    engine: str = "local"
    """"local": this process. "ray": Ray Data, for tables larger than a machine; its workers need
    dinojax, and see the files of the stage under the same path."""
    address: str | None = None
    """Of a cluster of Ray, as "auto". None: what RAY_ADDRESS says, the one that runs on this
    machine, or else a new one there; "local" is always a new one."""


@runtime_checkable
class Tables(Protocol):
    """Rows of one schema, in no order; not yet computed, perhaps."""

    @property
    def shards(self) -> int:
        """Into how many parts they are divided."""
        ...

    def map(self, function: Function) -> "Tables":
        """`function` of each shard."""
        ...

    def by_key(self, key: str, function: Function, *others: "Tables") -> "Tables":
        """`function` of new shards, of these rows and those of `others`, which have the same
        schema: all rows with one `key`, integers from 0 on, are in one shard."""
        ...

    def held(self) -> "Tables":
        """Computed once, however often they are used."""
        ...

    def all(self) -> pa.Table:
        """Here, for small tables."""
        ...

    def sorted(self, key: str) -> Iterator[pa.Table]:
        """Part after part, by ascending `key`, all different."""
        ...


@runtime_checkable
class Runner(Protocol):
    """A context in which tables can be used."""

    def __enter__(self) -> "Runner": ...

    def __exit__(self, *failure: object) -> None: ...

    def read(self, path: Path, columns: Sequence[str]) -> Tables:
        """Of a Parquet file, with ``row``, the number of each row in it."""
        ...


@dataclass(frozen=True)
class LocalTables:
    """In memory."""

    parts: Sequence[pa.Table]

    @property
    def shards(self) -> int:
        return len(self.parts)

    def map(self, function: Function) -> "LocalTables":
        return LocalTables([function(part) for part in self.parts])

    def by_key(self, key: str, function: Function, *others: "LocalTables") -> "LocalTables":
        count = self.shards
        whole = pa.concat_tables([part for tables in (self, *others) for part in tables.parts])
        if count == 1:
            return LocalTables([function(whole)])
        shard = shard_of(whole, key, count)
        return LocalTables([function(whole.filter(pa.array(shard == i))) for i in range(count)])

    def held(self) -> "LocalTables":
        return self

    def all(self) -> pa.Table:
        return pa.concat_tables(self.parts)

    def sorted(self, key: str) -> Iterator[pa.Table]:
        yield self.all().sort_by(key)


class Local:
    """This process: each table is one shard."""

    def __enter__(self) -> "Local":
        return self

    def __exit__(self, *failure: object) -> None:
        pass

    def read(self, path: Path, columns: Sequence[str]) -> LocalTables:
        return LocalTables([read_piece(pa.concat_tables(pieces(path)), path, columns)])


def shard_of(table: pa.Table, key: str, count: int) -> Int[np.ndarray, " n"]:
    """Which of `count` shards each row goes to."""
    return table[key].to_numpy() % count


def make_runner(options: RunnerOptions) -> Runner:
    """Nothing is started before it is entered.

    Raises:
        ValueError: an unknown engine, an address that it does not take, or Ray is not installed.
    """
    if options.engine == "ray":
        try:
            importlib.import_module("ray.data")
        except ImportError as error:
            raise ValueError(
                "runner.engine='ray' needs Ray Data; pip install 'dinojax[ray]', or use 'local'"
            ) from error
        from dinojax.curation.ray_runner import Ray

        return Ray(options.address)
    if options.engine != "local":
        raise ValueError(f"runner.engine={options.engine!r} is unknown; use one of 'local', 'ray'")
    if options.address is not None:
        raise ValueError(
            f"runner.address={options.address!r} is of a cluster; use it with runner.engine=ray"
        )
    return Local()
