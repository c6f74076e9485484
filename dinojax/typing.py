"""Array aliases and the axis legend used in every signature of this package.

Axis letters:

    B images        V views (crops of one image)    G groups (see below)
    N tokens        P patches                       M masked patches
    H heads         K prototypes                    L layers
    S crop side     C channels                      D width
    d head width    b images or crops per group

Token order is always ``[CLS, registers, patches]``. Multi-crop arrays are ``[V, B, ...]`` with only
``B`` sharded; the group view of the same data is ``[G, V * g, ...]``, crop-major inside a group of
``g`` images. Images are ``[.., height, width, channel]``, uint8 in 0..255 until ``views`` turns
them into floats.
"""

from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

Params = dict[str, Any]
"""Nested dict of arrays; leaves of scanned blocks carry a leading layer axis ``L``."""

PyTree = Any
Key = jax.Array
"""A typed PRNG key (``jax.random.key``), never a raw uint32 pair."""

Step = int | Int[Array, ""]

__all__ = ["Array", "Bool", "Float", "Int", "Key", "Params", "PyTree", "Shaped", "Step", "UInt8"]
