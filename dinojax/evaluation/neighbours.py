"""How far apart features lie: what KoLeo (arXiv:1806.03198, section 3.2) spreads out.

Its loss is the mean log of these distances. Quantiles say more: a low one shows images that have
become the same point while the others are still spread.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.precision import unit_rows
from dinojax.typing import Array, Float

CHUNK = 256
"""Rows at a time: the similarities held are ``[CHUNK, n]``."""


@jax.jit
def nearest_distances(features: Float[Array | np.ndarray, "n D"]) -> Float[Array, " n"]:
    """Of each row on the unit sphere, the Euclidean distance to its nearest other row, 0..2.

    Raises:
        ValueError: fewer than 2 rows.
    """
    count = len(features)
    if count < 2:
        raise ValueError(f"features hold {count} rows, and none has a neighbour; use at least 2")
    unit = unit_rows(jnp.asarray(features))

    def distance(given: tuple[Array, Array]) -> Float[Array, ""]:
        row, index = given
        cosines = jnp.matmul(unit, row, precision=jax.lax.Precision.HIGHEST)
        nearest = jnp.where(jnp.arange(count) == index, -jnp.inf, cosines).argmax()
        # Not from the cosine, whose rounding would be a distance of 3e-4 between equal rows.
        return jnp.linalg.norm(row - unit[nearest])

    return jax.lax.map(distance, (unit, jnp.arange(count)), batch_size=CHUNK)
