"""Patches that the network uses as registers: tokens of far larger norm than their neighbours.

In long training some patches of plain backgrounds lose what they show and carry global information
instead (Vision Transformers Need Registers, arXiv:2309.16588, section 2). Their features are
artefacts in every dense task. Registers are meant to take their place, so the share of such patches
stays near 0 where they do.
"""

import jax.numpy as jnp

from dinojax.precision import widen
from dinojax.typing import Array, Float

FAR = 3.0
"""Norms above this many times the image's median count. The paper cuts DINOv2 ViT-g at 150, where
most norms lie below 60."""


def patch_norm_outliers(patches: Float[Array, "b P D"], far: float = FAR) -> Float[Array, " b"]:
    """Share of an image's patches, 0..1, whose norm is above `far` times the median of the image.

    Args:
        patches: before the final norm, which would make all norms alike.
    """
    norms = jnp.linalg.norm(widen(patches), axis=-1)
    return (norms > far * jnp.median(norms, axis=1, keepdims=True)).mean(axis=1)
