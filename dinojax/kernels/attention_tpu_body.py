"""What a program of `attention_tpu` computes on its block of images and heads in vector memory."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dinojax.kernels.tiles_tpu import multiply
from dinojax.precision import widen
from dinojax.typing import Array, Float

LANES, SUBLANES = 128, 8
ROWS = 512
"""Tokens that a program takes at least, if there are as many images: its start costs, too."""
LOGITS_BYTES = 6 * 2**20
"""Of one head's float32 logits at a time; a few arrays of that size live beside each other."""
LOWEST = -1e30
"""Logit of a key that is not of the query's image; finite, so that no difference is NaN."""

Rows = Float[Array, "R W"]
"""Tokens of one image, or of several that share products, and the lanes of some heads."""


class Tiling(NamedTuple):
    """What a program works on.

    Attributes:
        tokens: of one image.
        heads: of `head_dim` each, side by side in the lanes of a block.
        images: of a block, a multiple of `packed`.
        packed: images that share a product.
        queries: rows of a slab that are taken at a time.
    """

    tokens: int
    heads: int
    head_dim: int
    images: int
    packed: int
    queries: int

    @property
    def stride(self) -> int:
        """Rows from one image of a slab to the next: they start at whole sublanes."""
        return self.tokens if self.packed == 1 else up(self.tokens, SUBLANES)

    @property
    def rows(self) -> int:
        return self.packed * self.stride

    @property
    def lanes(self) -> list[slice]:
        """Each head's."""
        return [slice(h * self.head_dim, (h + 1) * self.head_dim) for h in range(self.heads)]

    @property
    def tiles(self) -> list[slice]:
        """The rows of queries, some at a time."""
        starts = range(0, self.rows, self.queries)
        return [slice(start, min(start + self.queries, self.rows)) for start in starts]


def tiling(images: int, tokens: int, heads: int, head_dim: int) -> Tiling:
    """How ``[images, tokens, heads * head_dim]`` are cut."""
    fitting = (n for n in range(1, heads) if heads % n == 0 and n * head_dim % LANES == 0)
    together = next(fitting, heads)
    packed = max(min(LANES // up(tokens, SUBLANES), images), 1)
    rows = tokens if packed == 1 else packed * up(tokens, SUBLANES)
    slabs = min(math.ceil(ROWS / rows), math.ceil(images / packed))
    tiles = math.ceil(rows * up(rows, LANES) * 4 / LOGITS_BYTES)
    return Tiling(
        tokens, together, head_dim, slabs * packed, packed, up(math.ceil(rows / tiles), 16)
    )


def up(size: int, multiple: int) -> int:
    return size + -size % multiple


def forward_kernel(q_ref, k_ref, v_ref, *refs, cut: Tiling, images: int):
    *tables, out_ref = refs
    for slab in _slabs(cut, images):
        q, k, v = _operands(q_ref, k_ref, v_ref, tables, slab, cut)
        outputs = []
        for head in cut.lanes:
            parts = []
            for rows in cut.tiles:
                weights, total = _softmax(q[rows, head], k[:, head], rows, cut)
                parts.append(multiply(weights.astype(v.dtype), v[:, head]) * (1 / total))
            outputs.append(_joined(parts, 0))
        _store(out_ref, slab, cut, _joined(outputs, 1))


def backward_kernel(q_ref, k_ref, v_ref, grad_ref, *refs, cut: Tiling, images: int):
    *tables, q_out, k_out, v_out = refs
    for slab in _slabs(cut, images):
        q, k, v = _operands(q_ref, k_ref, v_ref, tables, slab, cut)
        grad = _load(grad_ref, slab, cut).astype(v.dtype)
        by_q, by_k, by_v = [], [], []
        for head in cut.lanes:
            parts, of_k, of_v = [], 0.0, 0.0
            for rows in cut.tiles:
                weights, total = _softmax(q[rows, head], k[:, head], rows, cut)
                weights = weights * (1 / total)
                by_weights = multiply(grad[rows, head], v[:, head], (1, 1))
                mean = (weights * by_weights).sum(axis=1, keepdims=True)
                by_logits = (weights * (by_weights - mean)).astype(v.dtype)
                parts.append(multiply(by_logits, k[:, head]))
                of_k += multiply(by_logits, q[rows, head], (0, 0))
                of_v += multiply(weights.astype(v.dtype), grad[rows, head], (0, 0))
            by_q.append(_joined(parts, 0))
            by_k.append(of_k)
            by_v.append(of_v)
        turned_back = _rotate_back(_joined(by_q, 1), tables, cut) * cut.head_dim**-0.5
        _store(q_out, slab, cut, turned_back)
        _store(k_out, slab, cut, _rotate_back(_joined(by_k, 1), tables, cut))
        _store(v_out, slab, cut, _joined(by_v, 1))


class Slab(NamedTuple):
    """Images ``first`` and following of a block, of which ``real`` exist (None: all of them)."""

    first: int
    real: Array | None


def _slabs(cut: Tiling, images: int) -> list[Slab]:
    # The last block may reach beyond the images. What is read there may be NaN, which a weight of
    # zero would not keep from the other images of a slab.
    mixed = cut.packed > 1 and images % cut.images > 0
    left = images - pl.program_id(1) * cut.images if mixed else None
    firsts = range(0, cut.images, cut.packed)
    return [Slab(first, None if left is None else left - first) for first in firsts]


def _load(ref, slab: Slab, cut: Tiling) -> Rows:
    """Float32 rows; those between images are zero."""
    if cut.packed == 1:
        return widen(ref[slab.first])
    images = widen(ref[slab.first : slab.first + cut.packed])
    padded = jnp.pad(images, ((0, 0), (0, cut.stride - cut.tokens), (0, 0)))
    rows = padded.reshape(cut.rows, padded.shape[-1])
    if slab.real is None:
        return rows
    return jnp.where(_image_of(rows.shape, 0, cut) < slab.real, rows, 0)


def _store(ref, slab: Slab, cut: Tiling, rows: Rows):
    if cut.packed == 1:
        ref[slab.first] = rows.astype(ref.dtype)
    else:
        images = rows.reshape(cut.packed, cut.stride, rows.shape[-1])[:, : cut.tokens]
        ref[slab.first : slab.first + cut.packed] = images.astype(ref.dtype)


def _operands(q_ref, k_ref, v_ref, tables, slab: Slab, cut: Tiling) -> tuple[Rows, Rows, Rows]:
    """Of the products: q and k rotated and q divided by sqrt(d), rounded once."""
    q = _rotate(_load(q_ref, slab, cut), tables, cut) * cut.head_dim**-0.5
    k = _rotate(_load(k_ref, slab, cut), tables, cut)
    return q.astype(q_ref.dtype), k.astype(q_ref.dtype), _load(v_ref, slab, cut).astype(q_ref.dtype)


def _softmax(
    q: Float[Array, "M d"], k: Float[Array, "R d"], rows: slice, cut: Tiling
) -> tuple[Float[Array, "M R"], Float[Array, "M 1"]]:
    """Weights and what to divide them by; 0 for keys of other images."""
    logits = multiply(q, k, (1, 1))
    if cut.packed > 1:
        shape = (cut.rows, cut.rows)  # one tile
        position = jax.lax.broadcasted_iota(jnp.int32, shape, 1) % cut.stride
        same = _image_of(shape, 0, cut) == _image_of(shape, 1, cut)
        logits = jnp.where(same & (position < cut.tokens), logits, LOWEST)
    weights = jnp.exp(logits - logits.max(axis=1, keepdims=True))
    return weights, weights.sum(axis=1, keepdims=True)


def _rotate(x: Rows, tables, cut: Tiling) -> Rows:
    """RoPE of all heads at once: every lane times its cosine, its partner's times its sine."""
    if not tables:
        return x
    sin, cos = tables
    return x * cos[...] + _partner(x, cut) * sin[...]


def _rotate_back(grad: Rows, tables, cut: Tiling) -> Rows:
    if not tables:
        return grad
    sin, cos = tables
    return grad * cos[...] + _partner(grad * sin[...], cut)


def _partner(x: Rows, cut: Tiling) -> Rows:
    """Each head's first half of lanes for its second and the other way round."""
    half, width = cut.head_dim // 2, x.shape[1]
    ahead = pltpu.roll(x, width - half, 1)
    if cut.heads == 1:
        return ahead
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where(lane % cut.head_dim < half, ahead, pltpu.roll(x, half, 1))


def _image_of(shape: tuple[int, ...], axis: int, cut: Tiling) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis) // cut.stride


def _joined(parts: list[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)
