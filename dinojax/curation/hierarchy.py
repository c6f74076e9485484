"""Hierarchical k-means with resampling (arXiv:2405.15613): clusters of clusters of rows.

Centres of k-means lie about as dense as the data. Centres of centres do so less with each level,
and those of the last cover what there is evenly. Resampling flattens one level: of each cluster the
rows nearest to its centre are kept, equally many, and k-means begins anew on these; then all rows
go to their nearest new centre.

Splitting makes many clusters of few: each of a level's becomes some, by k-means of its own rows.

Settings are counted as here and not as there: `Level.rounds` is the number of resampled rounds
after the plain one. The released script of many processes counts both; its "10 steps" are 9 rounds.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from dinojax.curation import kmeans
from dinojax.curation.assign import assign
from dinojax.curation.draws import first_of_each
from dinojax.curation.parts import Chunks, Picked, Rows, chunks_of, each, to_host
from dinojax.curation.seeding import Seeding, greedy_seeds
from dinojax.typing import Float, Key

Seeds = Callable[[Chunks, int, Key, Seeding | None], Iterator[Seeding]]
"""Steps to where k-means begins: `seeding.greedy_seeds` or `parallel_seeding.parallel_seeds`."""


@dataclass(frozen=True)
class Level:
    """One clustering, of rows or of the centres below.

    Attributes:
        clusters: how many; arXiv:2508.10104 has 200M, 8M, 800k, 100k and 25k, the finest first.
        rounds: of resampling, after the plain one.
        kept: rows per cluster in these; about half of what a cluster holds in the mean.
        iterations: of Lloyd's algorithm in each round.
        tolerance: ends a round early once the inertia falls by less than this share.
        split: of each cluster, so many; fewer where it has fewer rows. Excludes `rounds`.
        reseed_empty: centres without rows go to the farthest rows (`kmeans.reseeded`); the released
            code leaves them where they are.

    Raises:
        ValueError: a number outside its range, or rounds of a level that is split.
    """

    clusters: int
    rounds: int = 0
    kept: int = 1
    iterations: int = 50
    tolerance: float = 0.0
    split: int = 1
    reseed_empty: bool = False

    def __post_init__(self) -> None:
        for name in ("clusters", "rounds", "kept", "iterations", "split"):
            value, least = getattr(self, name), 0 if name == "rounds" else 1
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}; use {least}")
        if self.split > 1 and self.rounds:
            raise ValueError(
                f"split={self.split} and rounds={self.rounds} exclude each other; use rounds=0, or "
                "split=1"
            )


class Splits(NamedTuple):
    """What has been split so far."""

    centers: tuple[Float[np.ndarray, "_ D"], ...] = ()
    """Of the first coarse clusters, each with those of its parts."""


class Progress(NamedTuple):
    """Where a level is; with the same rows and key all that follows is a function of it."""

    round: int
    """0: the plain one. Splits come after the last."""
    previous: Float[np.ndarray, "K D"] | None
    """The centres of the round before."""
    state: Seeding | kmeans.State | Splits


class Clusters(NamedTuple):
    """A level's result. Rows with one label are those of a cluster."""

    centers: Float[np.ndarray, "K D"]
    label: Int[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]
    """Squared, to the centre."""


def cluster(
    rows: Rows,
    level: Level,
    key: Key,
    *,
    seeds: Seeds,
    chunk: int,
    start: Progress | None = None,
) -> Iterator[Progress]:
    """One level, in steps: of seeding, iterations, then splits. `start` goes on after any of them,
    bit for bit."""
    begun, previous, at = (0, None, None) if start is None else start
    for number in range(begun, level.rounds + 1):
        sample = rows
        if previous is not None:
            label, distance = assign_all(rows, previous, chunk)
            sample = Picked(rows, first_of_each(label, distance, level.kept))
        chunks = chunks_of(sample, chunk)
        if isinstance(at, kmeans.State):
            state = at
        else:
            seeding = at if isinstance(at, Seeding) else None
            own = jax.random.fold_in(key, number)
            for step in seeds(chunks, level.clusters, own, seeding):
                seeding = step
                yield Progress(number, previous, seeding)
            assert seeding is not None  # there is a centre
            largest = jnp.stack(list(each(kmeans.largest_coordinate, chunks))).max()
            state = kmeans.begin(seeding.centers, largest)
            yield Progress(number, previous, state)
        options = {"tolerance": level.tolerance, "reseed_empty": level.reseed_empty}
        for improved in kmeans.lloyd(chunks, state, level.iterations, **options):
            state = improved
            yield Progress(number, previous, state)
        previous, at = np.asarray(state.centers), None
    if level.split > 1:
        assert previous is not None  # there is a round
        done = at if isinstance(at, Splits) else Splits()
        own = jax.random.fold_in(key, 1)  # 0 has seeded the level
        for more in split(rows, level, previous, own, chunk, done):
            yield Progress(level.rounds + 1, previous, more)


def split(
    rows: Rows,
    level: Level,
    coarse: Float[np.ndarray, "K D"],
    key: Key,
    chunk: int,
    done: Splits,
) -> Iterator[Splits]:
    """Of each coarse cluster `level.split`, by k-means from greedy seeds, once and not the best of
    several times as in the released code. Steps are coarse clusters.

    The devices hold a coarse cluster at a time, in whole blocks of rows.
    """
    label, _ = assign_all(rows, coarse, chunk)
    for number, places in enumerate(places_of_each(label, len(coarse))):
        if number < len(done.centers):
            continue
        found = coarse[:0]
        if len(places):
            count, inside = min(level.split, len(places)), jax.random.fold_in(key, number)
            whole = dataclasses.replace(level, clusters=count, split=1)
            own = Picked(rows, places)
            *_, last = cluster(own, whole, inside, seeds=greedy_seeds, chunk=len(places))
            assert isinstance(last.state, kmeans.State)
            found = np.asarray(last.state.centers)
        done = Splits((*done.centers, found))
        yield done


def settled(rows: Rows, last: Progress, chunk: int) -> Clusters:
    """What becomes of a level after its `last` step.

    After splits a row stays in its coarse cluster, even if a centre of another is nearer: no row is
    compared with all centres. Parts without rows are left out.
    """
    if isinstance(last.state, kmeans.State):
        centers = np.asarray(last.state.centers)
        return Clusters(centers, *assign_all(rows, centers, chunk))
    assert isinstance(last.state, Splits) and last.previous is not None
    parts, before = last.state.centers, 0
    label, distance = assign_all(rows, last.previous, chunk)
    for places, centers in zip(places_of_each(label, len(parts)), parts, strict=True):
        if len(places):
            own, distance[places] = assign_all(Picked(rows, places), centers, len(places))
            label[places] = before + own
        before += len(centers)
    used, label = np.unique(label, return_inverse=True)
    return Clusters(np.concatenate(parts)[used], label.astype(np.int32), distance)


def places_of_each(label: Int[np.ndarray, " n"], count: int) -> list[Int[np.ndarray, "_"]]:
    """Of each of `count` labels, the places of its rows."""
    sizes = np.bincount(label, minlength=count)
    return np.split(np.argsort(label, kind="stable"), np.cumsum(sizes)[:-1])


def assign_all(
    rows: Rows, centers: Float[np.ndarray, "K D"], chunk: int
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """(label, squared distance) of all rows, on the host."""
    label, distance = np.empty(len(rows), np.int32), np.empty(len(rows), centers.dtype)
    whole = jnp.asarray(centers)
    found = each(functools.partial(assign, centers=whole), chunks_of(rows, chunk))
    for first, some in zip(range(0, len(rows), chunk), found, strict=True):
        here = slice(first, min(first + chunk, len(rows)))
        every = to_host(some)
        label[here] = every.label[: here.stop - first]
        distance[here] = every.distance[: here.stop - first]
    return label, distance
