"""KoLeo: spread features by pushing nearest neighbours apart (arXiv:1806.03198, section 3.2)."""

import jax
import jax.numpy as jnp

from dinojax.precision import unit_rows
from dinojax.typing import Array, Float

EPSILON = 1e-8


def koleo_loss(
    features: Float[Array, "B D"], *, group_size: int | None = None, topk: int = 1
) -> Float[Array, ""]:
    """``-mean log`` distance to the `topk` nearest neighbours, over consecutive groups of rows.

    Rows are L2-normalised. Neighbours are searched inside a group of `group_size` images (default:
    all), so the value does not depend on the mesh: a group that crosses devices gathers its rows.
    The choice of neighbours has no gradient, both ends of each distance do.

    Raises:
        ValueError: the groups do not divide the batch, or are too small for `topk` neighbours.
    """
    rows, width = features.shape
    size = rows if group_size is None else group_size
    if rows % size:
        raise ValueError(
            f"koleo_group_size={size} does not divide the batch of {rows} images; use a divisor"
        )
    if topk >= size:
        raise ValueError(
            f"koleo_topk={topk} neighbours need groups of at least {topk + 1} images, not {size}"
        )
    unit = unit_rows(features, EPSILON).reshape(-1, size, width)
    # One pass over bfloat16 halves, a TPU's default, finds others among rows that are alike.
    similarity = jnp.einsum("gid,gjd->gij", unit, unit, precision=jax.lax.Precision.HIGHEST)
    others = jnp.where(jnp.eye(size, dtype=bool), -jnp.inf, jax.lax.stop_gradient(similarity))
    # A sort stays on each device; `top_k` would gather the similarities of all groups.
    neighbours = jnp.argsort(others, axis=-1, descending=True)[..., :topk]
    nearest = jax.vmap(lambda rows, index: rows[index])(unit, neighbours)
    difference = unit[:, :, None] - nearest + EPSILON
    distance = jnp.sqrt(jnp.square(difference).sum(axis=-1))
    return -jnp.log(distance + EPSILON).mean()
