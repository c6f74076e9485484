"""Masks of the first frame of a video carried through the others by similar patches.

The protocol of DINO (arXiv:2104.14294, section 4.2.2, after arXiv:2006.14613) and DINOv3
(arXiv:2508.10104, section 6.1.5): nothing is trained. Each patch takes the mean of the masks of the
patches most like it, in the first frame and in some frames before, not far from its own place. What
it takes is soft, and stays so for the frames to come.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.kernels.resize import resize_grid
from dinojax.precision import unit_rows
from dinojax.typing import Array, Bool, Float, Int


@dataclass(frozen=True)
class Neighbours:
    """Which patches a patch takes its mask from.

    Attributes:
        context: frames before it, besides the first one.
        radius: of the circle around its place, in patches.
        topk: as many of them.
        temperature: of their weights, the softmax of the cosines.
    """

    context: int = 7
    radius: float = 12.0
    topk: int = 5
    temperature: float = 0.2


def propagate(
    frames: Iterable[Float[Array, "h w D"]], first: Float[Array, "h w K"], neighbours: Neighbours
) -> Iterator[Float[Array, "h w K"]]:
    """Soft masks of every frame but the first, whose mask is `first`: K shares that sum to 1."""
    length = neighbours.context + 1
    before: deque[tuple[Array, Array]] = deque(maxlen=neighbours.context)
    origin = None
    for patches in frames:
        features = _unit(patches)
        if origin is None:
            origin = features, first
            continue
        seen = [origin, *before]
        known = np.arange(length) < len(seen)
        seen += [origin] * (length - len(seen))  # one shape, one program
        sources, masks = (jnp.stack(part) for part in zip(*seen, strict=True))
        mask = take_masks(
            features,
            sources,
            masks,
            known,
            radius=neighbours.radius,
            topk=neighbours.topk,
            temperature=neighbours.temperature,
        )
        before.append((features, mask))
        yield mask


@jax.jit(static_argnames=("radius", "topk", "temperature"))
def take_masks(
    features: Float[Array, "h w D"],
    sources: Float[Array, "n h w D"],
    masks: Float[Array, "n h w K"],
    known: Bool[Array | np.ndarray, " n"],
    *,
    radius: float,
    topk: int,
    temperature: float,
) -> Float[Array, "h w K"]:
    """One frame's masks from those of `sources`; features have unit length."""
    rows, columns, _ = features.shape
    near = jnp.asarray(_circle(rows, columns, radius))
    flat = features.reshape(rows * columns, -1)
    exact = jax.lax.Precision.HIGHEST
    seen = sources.reshape(len(sources), len(flat), -1)
    cosines = jnp.einsum("pd,nqd->pnq", flat, seen, precision=exact)
    used = near[:, None, :] & jnp.asarray(known)[:, None]
    cosines = jnp.where(used, cosines, -jnp.inf).reshape(len(flat), -1)
    best, places = jax.lax.top_k(cosines, min(topk, cosines.shape[1]))
    weights = jax.nn.softmax(best / temperature)
    taken = masks.reshape(-1, masks.shape[-1])[places]
    return jnp.einsum("pk,pkm->pm", weights, taken, precision=exact).reshape(rows, columns, -1)


@jax.jit(static_argnames="hw")
def hard_masks(soft: Float[Array, "h w K"], hw: tuple[int, int]) -> Int[Array, "H W"]:
    """The mask that is largest at each pixel: interpolated, each stretched to 0..1 in the frame."""
    pixels = resize_grid(soft, hw, method="bilinear")
    low, high = pixels.min((0, 1)), pixels.max((0, 1))
    # A mask that is nowhere stays at 0.
    stretched = (pixels - low) / jnp.where(high > low, high - low, 1)
    return stretched.argmax(-1)


def _circle(rows: int, columns: int, radius: float) -> Bool[np.ndarray, "P P"]:
    """Which patches lie within `radius` of each other."""
    place = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1)
    return np.square(place[:, None] - place).sum(-1) <= radius**2


@jax.jit
def _unit(patches: Float[Array, "h w D"]) -> Float[Array, "h w D"]:
    return unit_rows(patches)
