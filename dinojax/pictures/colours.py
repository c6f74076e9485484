"""From numbers to colours: one scale whose lightness rises evenly from black to white-yellow."""

import numpy as np
from jaxtyping import Float, UInt8

INFERNO = np.array(
    [
        (0, 0, 4),
        (22, 11, 57),
        (66, 10, 104),
        (106, 23, 110),
        (147, 38, 103),
        (188, 55, 84),
        (221, 81, 58),
        (243, 120, 25),
        (252, 165, 10),
        (246, 215, 70),
        (252, 255, 164),
    ],
    np.float32,
)
"""Eleven even steps of the scale of that name by Stefan van der Walt and Nathaniel Smith (CC0)."""


def heat(values: Float[np.ndarray, "h w"], low: float, high: float) -> UInt8[np.ndarray, "h w 3"]:
    """Values from `low` (black) to `high` (light yellow); those beyond take the ends' colours."""
    unit = (np.asarray(values, np.float32) - low) / max(high - low, 1e-12)
    place = np.nan_to_num(unit).clip(0, 1) * (len(INFERNO) - 1)
    below = np.floor(place).astype(int).clip(0, len(INFERNO) - 2)
    share = (place - below)[..., None]
    colour = INFERNO[below] * (1 - share) + INFERNO[below + 1] * share
    return colour.round().astype(np.uint8)
