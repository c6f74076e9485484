"""Prototypes of a new head that mean something from the first step on.

A random last layer gives targets that say nothing about the image, and a student that learns them
unlearns what it knew. Clusters of what the head makes of real images are targets at once.
"""

import jax
import jax.numpy as jnp

from dinojax.precision import unit_rows, widen
from dinojax.ssl.kmeans import spherical_kmeans
from dinojax.typing import Array, Float, Key, Params


def seed_prototypes(
    bottlenecks: Float[Array, "N F"], prototypes: int, key: Key
) -> Float[Array, "F K"]:
    """Unit columns for the last layer: directions of clusters from the mean of all clusters.

    What all columns have in common adds the same to all logits of a row and changes no softmax, but
    hides how they differ; so it is taken out before they get unit length.

    With fewer rows than prototypes every row is a cluster, and the remaining prototypes lie halfway
    between two of them, drawn at random.

    Raises:
        ValueError: fewer than two rows.
    """
    if len(bottlenecks) < 2:
        raise ValueError(f"prototypes need at least 2 bottleneck features, not {len(bottlenecks)}")
    rows = unit_rows(widen(bottlenecks))
    for_centers, for_pairs = jax.random.split(key)
    centers = spherical_kmeans(rows, min(prototypes, len(rows)), for_centers)
    missing = prototypes - len(centers)
    if missing > 0:
        one, apart = (
            jax.random.randint(key, (missing,), low, len(centers))
            for key, low in zip(jax.random.split(for_pairs), (0, 1), strict=True)
        )
        other = (one + apart) % len(centers)
        between = unit_rows(centers[one] + centers[other])
        centers = jnp.concatenate([centers, between])
    return unit_rows(centers - centers.mean(axis=0)).T


def with_prototypes(head: Params, columns: Float[Array, "F K"]) -> Params:
    """The head's parameters with another last layer; gains, if it has them, are 1."""
    changed = {"last_layer": columns.astype(head["last_layer"].dtype)}
    if "last_layer_gain" in head:
        changed["last_layer_gain"] = jnp.ones_like(head["last_layer_gain"])
    return {**head, **changed}
