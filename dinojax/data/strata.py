"""Stratified choice: which of several ways each of the positions 0, 1, 2, ... takes, by share.

Independent draws would give the shares on average, but how often each way was taken before a
position could only be told by replaying all draws. Here one way is told from the rest by a *split*:
of every stratum of ``1 / share`` positions, one at a hashed place takes it, so that
``floor(n * share)`` or one more of the first n positions do. The rest is split in the same way, its
positions counted anew, until one way is left. Any position is answered at once, in exact integers:
the shares count as the decimals they are written as.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from hashlib import blake2b


@dataclass(frozen=True)
class Strata:
    """A choice between ways for every position; a function of the fields alone.

    The first n positions hold ``share * n`` of a way to within ``2 + log(ways)``, to within 1 of
    two ways: the heaviest way is split off first, so what is passed on of an error shrinks.

    Attributes:
        shares: in any unit, not negative; a way of share 0 is never taken.
        seed: of the hashed places.
        name: keeps choices under one seed apart.

    Raises:
        ValueError: a negative or infinite share, or none above 0.
    """

    shares: tuple[float | Fraction, ...]
    seed: int
    name: str

    def __post_init__(self) -> None:
        if not all(0 <= share < math.inf for share in self.shares) or not any(self.shares):
            raise ValueError(
                f"{self.name}: weights {self.shares} must be finite, none negative and one above "
                "0; use 1.0 for each"
            )

    def at(self, position: int) -> tuple[int, int]:
        """The way of `position`, and how many positions before it take the same."""
        for split in self._splits[:-1]:
            taken, before = split.at(position)
            if taken:
                return split.way, before
            position -= before
        return self._splits[-1].way, position

    def counts(self, position: int) -> tuple[int, ...]:
        """How many positions before `position` take each way."""
        counts = [0] * len(self.shares)
        for split in self._splits[:-1]:
            _, counts[split.way] = split.at(position)
            position -= counts[split.way]
        counts[self._splits[-1].way] = position
        return tuple(counts)

    @cached_property
    def _splits(self) -> list["_Split"]:
        shares = {way: Fraction(str(share)) for way, share in enumerate(self.shares) if share}
        splits, rest = [], sum(shares.values())
        for way in sorted(shares, key=lambda way: (-shares[way], way)):
            splits.append(_Split(way, shares[way] / rest, f"{self.seed}/{self.name}/{way}"))
            rest -= shares[way]
        return splits


@dataclass(frozen=True)
class _Split:
    """Stratum i holds the positions ``ceil(i / share) .. ceil((i + 1) / share) - 1``.

    What a share above 1/2 leaves out is placed instead: otherwise most strata would hold a single
    position, and nothing would be left to the hash.
    """

    way: int
    share: Fraction
    salt: str

    def at(self, position: int) -> tuple[bool, int]:
        """Whether `position` is taken, and how many before it are."""
        often = self.share > Fraction(1, 2)
        rare = 1 - self.share if often else self.share
        stratum = position * rare.numerator // rare.denominator
        first, end = (-(-i * rare.denominator // rare.numerator) for i in (stratum, stratum + 1))
        digest = blake2b(f"{self.salt}/{stratum}".encode(), digest_size=8).digest()
        place = first + int.from_bytes(digest) % (end - first)
        taken, before = place == position, stratum + (place < position)
        return (not taken, position - before) if often else (taken, before)
