"""What a compiled program moves between devices, read from its HLO text.

Both spellings are understood: that of XLA on CPUs and GPUs, and that of the TPU compiler, whose
reduce-scatters are fusions around an all-reduce.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
CALLED = re.compile(r"\b(?:calls|to_apply|condition)=%?([\w.\-]+)")
BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
CHOSEN = re.compile(r"\b(?:true|false)_computation=%?([\w.\-]+)")
LOOP = re.compile(r" while\(.*\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
COUNTER_LIMIT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
ARRAY = re.compile(r"\b(pred|bf16|[a-z]+\d+\w*)\[([\d,]*)\]")
LAYER_LOOP = re.compile(r'op_name="[^"]*\b_layers/while"')
"""The scan over depth of `models.vit`, in every pass."""


class Collective(NamedTuple):
    """One array that a collective moves.

    Attributes:
        kind: one of `KINDS`.
        dtype: in HLO's words.
        shape: of its result, without axes of size 1.
        parts: how many such results make up the array: above 1 where it is scattered.
        in_layers: whether the loop over layers runs it.
        times: runs per step, as far as the loops around it count.
        source: the operation in the model that it was made for.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    parts: int
    in_layers: bool
    times: int
    source: str

    @property
    def bytes(self) -> int:
        """Of the whole array that is gathered, reduced or sent, once."""
        return self.parts * math.prod(self.shape) * _item_bytes(self.dtype)


@dataclass
class _Computation:
    lines: list[str]
    limit: int | None = None


def collectives(hlo: str) -> list[Collective]:
    """All arrays that the program's collectives move, in the order of the text."""
    computations = _computations(hlo)
    runs = _runs(computations)
    found = []
    for name, computation in computations.items():
        if name not in runs:
            continue
        times, in_layers = runs[name]
        scattered = "all-reduce-scatter" in name
        for line in computation.lines:
            match = COLLECTIVE.search(line)
            if match is None:
                continue
            results, kind, start = match.groups()
            arrays = ARRAY.findall(results)
            if start and kind != "all-reduce":  # (operands, results, and counters to wait for)
                arrays = [array for array in arrays if array != ("u32", "")]
                arrays = arrays[len(arrays) // 2 :]
            kind = "reduce-scatter" if scattered and kind == "all-reduce" else kind
            parts = _group_size(line) if match[2] == "reduce-scatter" else 1
            source = re.search(r'op_name="([^"]*)"', line)
            for dtype, dims in arrays:
                shape = tuple(int(n) for n in dims.split(",") if n not in ("", "1"))
                operation = source[1] if source else ""
                found.append(Collective(kind, dtype, shape, parts, in_layers, times, operation))
    return found


def summary(found: list[Collective]) -> list[dict[str, str | int | bool]]:
    """Per kind, dtype and place: how many arrays a step moves, and their bytes."""
    rows: dict[tuple[str, str, bool], list[int]] = defaultdict(lambda: [0, 0])
    for one in found:
        row = rows[one.kind, one.dtype, one.in_layers]
        row[0] += one.times
        row[1] += one.times * one.bytes
    return [
        {"kind": kind, "dtype": dtype, "in_layer_loop": place, "count": count, "bytes": size}
        for (kind, dtype, place), (count, size) in sorted(rows.items())
    ]


def _computations(hlo: str) -> dict[str, _Computation]:
    found: dict[str, _Computation] = {}
    current = _Computation([])
    for line in hlo.splitlines():
        start = COMPUTATION.match(line)
        if start:
            current = found["ENTRY" if line.startswith("ENTRY") else start[1]] = _Computation([])
        current.lines.append(line)
    for computation in found.values():
        limits = COUNTER_LIMIT.findall("\n".join(computation.lines))
        computation.limit = int(limits[0]) if len(limits) == 1 else None
    return found


def _runs(computations: dict[str, _Computation]) -> dict[str, tuple[int, bool]]:
    """How often a step runs each computation, and whether inside the loop over layers."""
    runs: dict[str, tuple[int, bool]] = {}

    def visit(name: str, times: int, in_layers: bool) -> None:
        if name not in computations:
            return
        before, inside = runs.get(name, (0, False))
        runs[name] = (before + times, inside or in_layers)
        for line in computations[name].lines[1:]:
            loop = LOOP.search(line)
            if loop:
                condition, body = loop.groups()
                known = TRIPS.search(line)
                limit = computations[condition].limit if condition in computations else None
                trips = int(known[1]) if known else limit or 1
                visit(body, times * trips, in_layers or bool(LAYER_LOOP.search(line)))
                visit(condition, times * trips, in_layers)
                continue
            called = CALLED.findall(line) + CHOSEN.findall(line)
            for several in BRANCHES.findall(line):
                called += re.findall(r"[\w.\-]+", several)
            for other in called:
                visit(other, times, in_layers)

    visit("ENTRY", 1, False)
    return runs


def _group_size(line: str) -> int:
    """Devices that take part together."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line):
        return int(iota[2])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    return 1


def _item_bytes(dtype: str) -> int:
    if dtype == "pred":
        return 1
    digits = re.search(r"\d+", dtype)
    return max(int(digits[0]) // 8, 1) if digits else 1
