"""Parameter trees addressed by ``/``-joined paths, e.g. ``backbone/blocks/attn/qkv/kernel``."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dinojax.precision import widen
from dinojax.typing import Array, Float, PyTree


def path_name(path: tuple[Any, ...]) -> str:
    """``/``-joined name of a key path from `jax.tree_util`; dict keys, fields and indices alike."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, in tree order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def map_named(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """`jax.tree.map` whose function also gets the leaf's path as first argument."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: fn(path_name(path), *leaves), tree, *rest
    )


def count(tree: PyTree) -> int:
    """Number of scalars in all leaves (arrays or `jax.ShapeDtypeStruct`)."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def byte_count(tree: PyTree) -> int:
    """Bytes of all leaves (arrays or `jax.ShapeDtypeStruct`)."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def global_norm(tree: PyTree) -> Float[Array, ""]:
    """L2 norm over all leaves together, at least float32."""
    squares = [jnp.sum(jnp.square(widen(leaf))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(jnp.stack(squares).sum())


def is_finite(tree: PyTree) -> Array:
    """One boolean: every element of every leaf is finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def where(condition: Array, chosen: PyTree, otherwise: PyTree) -> PyTree:
    """Leafwise `jnp.where` with one scalar condition."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, otherwise)
