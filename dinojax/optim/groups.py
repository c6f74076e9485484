"""Learning-rate and weight-decay multipliers per parameter (DINOv3 recipe, layer-wise decay)."""

import re

import jax
import jax.numpy as jnp

from dinojax.trees import map_named
from dinojax.typing import Params, PyTree

UNDECAYED = re.compile(r"(^|/)(bias|gamma)$|norm")
"""No weight decay: biases, LayerScale, norm gains. Tokens, position tables and prototypes, with
their gains where they have some, are decayed."""

DECAYED_NORM = re.compile(r"(^|/)downsample_\d/norm/scale$")
"""Those between ConvNeXt's stages, which the reference finds no "norm" in the name of."""

EMBEDDING = re.compile(r"(^|/)embed/")
BLOCKS = re.compile(r"(^|/)blocks/")
PATCH_EMBED = re.compile(r"(^|/)embed/patch_embed/")
LAST_LAYER = re.compile(r"(^|/)last_layer(_gain)?$")


def lr_multipliers(
    params: Params, *, layerwise_decay: float = 1.0, patch_embed_lr_mult: float = 1.0
) -> PyTree:
    """Multiplier of each leaf: ``decay ** (L - i)`` in block i, ``decay ** (L + 1)`` in embeddings.

    Final norms and heads have 1. Leaves of stacked blocks get ``[L, 1, ..]``, so one leaf carries
    another rate for every layer.
    """
    depths = [
        leaf.shape[0]
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if BLOCKS.search(jax.tree_util.keystr(path, simple=True, separator="/"))
    ]
    depth = depths[0] if depths else 0

    def multiplier(path: str, leaf):
        if BLOCKS.search(path):
            powers = layerwise_decay ** jnp.arange(depth, 0, -1, dtype=float)
            return powers.reshape(-1, *[1] * (leaf.ndim - 1))
        if PATCH_EMBED.search(path):
            return jnp.asarray(layerwise_decay ** (depth + 1) * patch_embed_lr_mult)
        if EMBEDDING.search(path):
            return jnp.asarray(layerwise_decay ** (depth + 1))
        return jnp.asarray(1.0)

    return map_named(multiplier, params)


def is_decayed(params: Params) -> PyTree:
    """Boolean per leaf: weight decay applies."""

    def decayed(path: str, _) -> bool:
        return UNDECAYED.search(path) is None or DECAYED_NORM.search(path) is not None

    return map_named(decayed, params)


def is_last_layer(params: Params) -> PyTree:
    """Boolean per leaf: prototypes of a head, which have a learning rate of their own."""
    return map_named(lambda path, _: LAST_LAYER.search(path) is not None, params)
