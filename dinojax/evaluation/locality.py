"""How local patch features are, without labels: the early signs of dense decay.

In long training the patches of an image grow alike, and like its CLS token, while global scores
still rise: similarity maps fill with patches that have nothing to do with the one asked for
(DINOv3, arXiv:2508.10104, section 4.1). Two numbers per image show it:

* `locality` falls: a patch is less similar to its neighbours, compared with patches far away.
* `drift` rises: the mean cosine of the patches with CLS, as that section plots it.

Neither knows what is in the image. Raw colours are very local, so an untrained network may have a
high locality: the numbers compare states of one run, and say nothing about two models.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.precision import unit_rows
from dinojax.typing import Array, Float

ROUNDING = 1e-6
CHUNK = 16


@jax.jit
def locality(patches: Float[Array, "b h w D"]) -> Float[Array, " b"]:
    """Correlation of similarity with nearness over all pairs of an image's patches, -1..1.

    Pearson's, of the cosine of two patches' features with minus their distance in the grid. It does
    not change when all similarities are scaled or shifted: a common direction of all patches, which
    most networks have, is no decay. 0 where all patches are alike.

    Raises:
        ValueError: fewer than 3 patches, among which all pairs may have one distance.
    """
    _, rows, columns, _ = patches.shape
    if rows * columns < 3:
        raise ValueError(
            f"patches are a grid of {rows}x{columns}, too few to compare; use larger images"
        )
    apart = _distances(rows, columns)
    pairs = jnp.asarray(apart > 0)
    near = jnp.asarray(apart[apart > 0].mean() - apart, patches.dtype)
    near = jnp.where(pairs, near, 0)

    def correlation(features: Float[Array, "P D"]) -> Float[Array, ""]:
        cosines = jnp.matmul(features, features.T, precision=jax.lax.Precision.HIGHEST)
        alike = jnp.where(pairs, cosines - cosines.mean(where=pairs), 0)
        # Of equal patches only rounding would be left, whose correlation means nothing.
        constant = jnp.abs(alike).max() < ROUNDING
        scale = jnp.sqrt(jnp.square(alike).sum() * jnp.square(near).sum())
        return jnp.where(constant, 0, (alike * near).sum() / jnp.where(constant, 1, scale))

    features = unit_rows(patches).reshape(len(patches), rows * columns, -1)
    # A few images at a time: there are as many cosines as patches squared.
    return jax.lax.map(correlation, features, batch_size=CHUNK)


@jax.jit
def drift(cls: Float[Array, "b D"], patches: Float[Array, "b h w D"]) -> Float[Array, " b"]:
    """Mean cosine of an image's patches with its CLS token, -1..1."""
    towards = jnp.einsum(
        "bhwd,bd->bhw",
        unit_rows(patches),
        unit_rows(cls),
        precision=jax.lax.Precision.HIGHEST,
    )
    return towards.mean(axis=(1, 2))


def _distances(rows: int, columns: int) -> Float[np.ndarray, "P P"]:
    """Of patches in the grid, in patches."""
    place = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1)
    return np.linalg.norm(place[:, None] - place, axis=-1)
