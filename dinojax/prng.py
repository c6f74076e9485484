"""Random keys as a function of (seed, step, slot); nothing random is ever stored.

`key_for` names a stream of draws, `slot_keys` gives each image (or group) of the global batch its
own key. Because a slot's key does not depend on how many slots there are or where they live, the
draws are the same for every number of devices, hosts and workers, and after a resume on another
mesh.
"""

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dinojax.typing import Array, Int, Key, Step


def key_for(seed: int | Int[Array, ""], step: Step, *stream: str) -> Key:
    """The key of the named stream at one step. Different names give independent draws."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    for name in stream:
        key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return key


def slot_keys(key: Key, slots: int | Sequence[int] | jax.Array) -> Key:
    """Keys ``[n]``, one per slot; an int ``n`` means slots ``0..n-1``."""
    indices = jnp.arange(slots) if isinstance(slots, int) else jnp.asarray(slots)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
