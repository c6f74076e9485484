"""Which attention a GPU runs: the fastest one that was measured on such a chip.

`gpu_choices.json` holds the measurements, as ``benchmarks/attention.py --write_choices`` writes
them. The Pallas kernels are chosen only where they were measured.
"""

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.kernels import attention_cudnn, attention_gpu

TABLE = Path(__file__).with_name("gpu_choices.json")
SUPPORTS = {
    "cudnn": attention_cudnn.supports,
    "flash": attention_gpu.supports,
    "flash_mma": functools.partial(attention_gpu.supports, machine=attention_gpu.AMPERE),
}
"""Why a backend cannot run a shape; "reference" runs them all."""


@dataclass(frozen=True)
class Measured:
    """What attention, forward and backward, takes for one shape on one chip."""

    chip: str
    """``jax.devices()[0].device_kind``"""
    width: int
    """Of a head."""
    dtype: str
    tokens: int
    rows: int
    """Images times heads."""
    milliseconds: dict[str, float]
    """By backend, of those that were measured."""
    date: str
    """Of the latest of them."""

    @property
    def key(self) -> tuple[str, int, str, int, int]:
        """What measurements of the same have in common."""
        return self.chip, self.width, self.dtype, self.tokens, self.rows


class Choice(NamedTuple):
    """A backend, "reference" or one of `SUPPORTS`, and why."""

    backend: str
    why: str


def choose(
    q_shape: tuple[int, ...],
    dtype: DTypeLike,
    chip: str,
    capability: str,
    measured: Sequence[Measured] | None = None,
) -> Choice:
    """The backend for queries ``[G, b, N, H, d]``; by default `measured` is the table on file.

    The measurement with the nearest number of tokens decides (of several, the one with the nearest
    number of images times heads) among those of this chip, head width and dtype, and of what can
    run there. Without any it is cuDNN, or the reference where cuDNN cannot.
    """
    groups, images, tokens, heads, width = q_shape
    name, size = jnp.dtype(dtype).name, groups * images * heads
    refusals = {b: why for b, f in SUPPORTS.items() if (why := f(q_shape, dtype, capability))}
    table = read_choices() if measured is None else measured
    same = [m for m in table if (m.chip, m.width, m.dtype) == (chip, width, name)]
    if usable := [m for m in same if m.milliseconds.keys() - refusals]:
        nearest = min(usable, key=lambda m: (abs(m.tokens - tokens), abs(m.rows - size)))
        times = {b: ms for b, ms in nearest.milliseconds.items() if b not in refusals}
        backend = min(times, key=times.__getitem__)
        return Choice(backend, f"ms with {nearest.tokens} tokens on {nearest.date}: {times}")
    with_any = " with any backend that can" if same else ""
    why = [f"{chip} with heads of {width} {name} was not measured{with_any}"]
    why += [f"{b} cannot: {reason}" for b, reason in refusals.items()]
    return Choice("reference" if "cudnn" in refusals else "cudnn", "; ".join(why))


def choices_json(known: Iterable[Measured], new: Iterable[Measured]) -> str:
    """The text of `TABLE`, one shape per line; `new` times replace those of the same backend."""
    rows: dict[tuple, Measured] = {}
    for m in (*known, *new):
        before = rows[m.key].milliseconds if m.key in rows else {}
        rows[m.key] = replace(m, milliseconds=before | m.milliseconds)
    lines = [json.dumps(asdict(rows[key])) for key in sorted(rows)]
    return "[" + ",".join(f"\n  {line}" for line in lines) + "\n]\n"


@functools.cache
def read_choices(path: Path = TABLE) -> tuple[Measured, ...]:
    """All measurements on file."""
    return tuple(Measured(**row) for row in json.loads(path.read_text()))
