"""What a compiled program moves between devices."""

import re

COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def collectives(hlo: str) -> set[tuple[str, tuple[int, ...]]]:
    """Kind and shape, without axes of size 1, of every result of a collective."""
    return {
        (kind, tuple(int(n) for n in dims.split(",") if n not in ("", "1")))
        for results, kind in COLLECTIVE.findall(hlo)
        for dims in re.findall(r"\w+\[([\d,]*)\]", results)
    }
