"""Which record lies behind (step, slot): arithmetic on positions, nothing stored, nothing replayed.

Every part of the data has an endless sequence of its own: one epoch after the other, each in a new
order, every record once in each. The k-th draw from a part, over the whole run, takes position k of
its sequence. A step is homogeneous, all its slots drawing from one part, or mixed, its slots
drawing from the parts by weight; `strata` decides which, and counts what was drawn before, so that
k is known at every step without looking at any other.
"""

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import grain
import numpy as np
from jaxtyping import Int64

from dinojax.data.strata import Strata

MIXED, HOMOGENEOUS = 0, 1


def record_indices(
    positions: Iterable[int], num_records: int, seed: int
) -> Int64[np.ndarray, " b"]:
    """Records at these positions of the endless sequence, a new permutation in each epoch.

    The permutation is Grain's. `tests/data/test_order.py` pins its values, so that a release of
    Grain that changes them is noticed before a resumed run meets other data.
    """
    order = grain.MapDataset.range(num_records).seed(seed).shuffle().repeat()
    return np.array([order[int(position)] for position in positions], np.int64)


@dataclass(frozen=True)
class Order:
    """The records of every step, as indices into the parts laid end to end.

    Mixtures and homogeneous batches: DINOv3 (arXiv:2508.10104, section 3.1), where a tenth of the
    iterations takes homogeneous batches of ImageNet-1k. There both are drawn independently; here
    they are stratified (`Strata`): of every ``1 / homogeneous_share`` steps one at a hashed place,
    and of the first n slots of mixed steps ``weight * n`` to within ``2 + log(parts)``.

    Attributes:
        sizes: records of each part.
        global_batch: slots per step, over all hosts.
        seed: of the order; 0 .. 2**32 - 1.
        weights: of the parts in mixed steps, in any unit.
        homogeneous_part: the part of homogeneous steps, or None; its weight may be 0.
        homogeneous_share: of the steps, 0..1.

    Raises:
        ValueError: a part that is empty or never drawn from, or a number outside its range.
    """

    sizes: tuple[int, ...]
    global_batch: int
    seed: int
    weights: tuple[float, ...] = (1.0,)
    homogeneous_part: int | None = None
    homogeneous_share: float = 0.0

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.sizes):
            raise ValueError(
                f"weights={self.weights} must be one for each of the {len(self.sizes)} parts; "
                f"use {(1.0,) * len(self.sizes)}"
            )
        if min(self.sizes, default=0) < 1:
            raise ValueError(
                f"sizes={self.sizes}: the source holds no records, or a part of it does; give "
                "parts that hold at least 1"
            )
        if self.global_batch < 1:
            raise ValueError(f"global_batch={self.global_batch} must be positive; use 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must lie in 0..2**32 - 1; use 0")
        self._check_homogeneous()
        idle = [i for i, w in enumerate(self.weights) if not w and i != self.homogeneous_part]
        if idle:
            raise ValueError(
                f"weights={self.weights}: nothing would ever be drawn from part {idle[0]}; leave "
                "it out or use a weight above 0"
            )
        self._weighted.counts(0)  # checks the weights

    def _check_homogeneous(self) -> None:
        part, share = self.homogeneous_part, self.homogeneous_share
        if part is None and share == 0:
            return
        if part is None or not 0 < share < 1:
            raise ValueError(
                f"homogeneous_share={share} must lie strictly between 0 and 1 with a homogeneous "
                "part, and be 0 without; use 0.1 and name the part, or 0.0 and none"
            )
        if not 0 <= part < len(self.sizes):
            raise ValueError(
                f"homogeneous_part={part} must be one of the {len(self.sizes)} parts; use 0"
            )

    def indices(self, step: int, slots: Sequence[int]) -> Int64[np.ndarray, " b"]:
        """The records in these slots of `step`."""
        draws = self._draws(step, slots)
        index = np.empty(len(slots), np.int64)
        for part in {part for part, _ in draws}:
            places = [i for i, (other, _) in enumerate(draws) if other == part]
            positions = [draws[i][1] for i in places]
            index[places] = self._starts[part] + record_indices(
                positions, self.sizes[part], self._seeds[part]
            )
        return index

    def counts(self, step: int) -> tuple[int, ...]:
        """How many records were drawn from each part before `step`."""
        mixed, homogeneous = self._kinds.counts(step)
        counts = list(self._weighted.counts(mixed * self.global_batch))
        if self.homogeneous_part is not None:
            counts[self.homogeneous_part] += homogeneous * self.global_batch
        return tuple(counts)

    @property
    def mixture(self) -> str:
        """What distinguishes two mixtures of the same records, as text; empty for a single part."""
        if len(self.sizes) == 1:
            return ""
        return f"{self.sizes} {self.weights} {self.homogeneous_part}"

    def part_of(self, index: int) -> range:
        """The indices of the part that holds `index`."""
        part = bisect.bisect_right(self._starts, index) - 1
        return range(self._starts[part], self._starts[part + 1])

    def _draws(self, step: int, slots: Sequence[int]) -> list[tuple[int, int]]:
        """(part, position in its sequence) of each slot."""
        kind, _ = self._kinds.at(step)
        mixed, homogeneous = self._kinds.counts(step)
        extra = homogeneous * self.global_batch  # draws that no mixed slot has counted
        if kind == HOMOGENEOUS:
            assert self.homogeneous_part is not None  # its share is 0
            first = self.counts(step)[self.homogeneous_part]
            return [(self.homogeneous_part, first + slot) for slot in slots]
        draws = (self._weighted.at(mixed * self.global_batch + slot) for slot in slots)
        return [(part, before + extra * (part == self.homogeneous_part)) for part, before in draws]

    @cached_property
    def _kinds(self) -> Strata:
        share = Fraction(str(self.homogeneous_share))
        return Strata((1 - share, share), self.seed, "homogeneous steps")

    @cached_property
    def _weighted(self) -> Strata:
        return Strata(self.weights, self.seed, "mixture")

    @cached_property
    def _starts(self) -> list[int]:
        return list(itertools.accumulate(self.sizes, initial=0))

    @cached_property
    def _seeds(self) -> list[int]:
        """Parts of one size must not share an order. The first part's seed is the order's own."""
        others = range(1, len(self.sizes))
        return [
            self.seed,
            *(int(np.random.SeedSequence((self.seed, i)).generate_state(1)[0]) for i in others),
        ]
