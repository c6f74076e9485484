"""What a compiled program moves between devices, for comparisons of shapes."""

from dinojax.planning import hlo


def collectives(text: str) -> set[tuple[str, tuple[int, ...]]]:
    """Kind and shape, without axes of size 1, of every result of a collective."""
    return {(one.kind, one.shape) for one in hlo.collectives(text)}
