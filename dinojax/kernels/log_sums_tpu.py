"""Logarithms of sums of exponentiated logits, by rows and by columns, as Pallas TPU kernels.

Logits are ``z = features @ prototypes``. They exist as one tile in VMEM, with a running peak and
the sum of exponentials relative to it. These two sums in turns are Sinkhorn-Knopp. Neither can
start before the other is complete, over all prototypes or all rows, so each costs one product.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dinojax.kernels import tiles_tpu as tiles
from dinojax.kernels.on_device import platform
from dinojax.kernels.tiles_tpu import (
    LANES,
    SUBLANES,
    Temperature,
    fill,
    multiply,
    passes,
    split_evenly,
)
from dinojax.precision import widen
from dinojax.typing import Array, Float

TILE = 1024
"""The most rows and columns of a tile: of what passes by, each number enters so many products."""
PART = 256
"""Of a tile's length, logits at a time: the next product runs beside their exponentials."""
PARTIAL = 8
"""Sums over rows that are kept apart until the end, as the rows of a register."""


def row_log_sums(
    features: Float[Array, "R F"],
    prototypes: Float[Array, "F K"],
    center: Float[Array, " K"],
    temperature: Temperature,
) -> Float[Array, " R"]:
    """``logsumexp((z - center) / temperature)`` over prototypes, at least float32."""
    (rows, width), columns, wide = features.shape, prototypes.shape[1], widen(features).dtype
    (n, r), (m, k) = split_evenly(rows, TILE, SUBLANES), split_evenly(columns, TILE, LANES)
    sums = pl.pallas_call(
        _row_log_sums,
        jax.ShapeDtypeStruct((n * r, 1), wide),
        grid=(n, m),
        in_specs=[
            tiles.SCALAR,
            pl.BlockSpec((r, width), lambda i, j: (i, 0)),
            pl.BlockSpec((width, k), lambda i, j: (0, j)),
            pl.BlockSpec((1, k), lambda i, j: (0, j)),
        ],
        out_specs=pl.BlockSpec((r, 1), lambda i, j: (i, 0)),
        scratch_shapes=[pltpu.VMEM((r, LANES), wide)] * 2,
        compiler_params=tiles.options("parallel", "arbitrary"),
        cost_estimate=pl.CostEstimate(
            flops=2 * n * r * m * k * width,
            transcendentals=n * r * m * k,
            bytes_accessed=n * r * (width * features.dtype.itemsize + wide.itemsize)
            + passes(n, m) * m * k * (width * prototypes.dtype.itemsize + wide.itemsize),
        ),
        interpret=platform() != "tpu",
        name="row_log_sums",
    )(
        tiles.inverse(temperature, features),
        fill(features, 0, n * r),
        fill(prototypes, 1, m * k),
        fill(center[None].astype(wide), 1, m * k, jnp.inf),
    )
    return sums[:rows, 0]


def _row_log_sums(inverse, x, columns, center, out, peak, rest) -> None:
    def logits(part: slice) -> Float[Array, "r k"]:
        return (multiply(x[...], columns[:, part]) - center[:, part]) * inverse[0]

    _add_tile(logits, columns.shape[1], 1, out, peak, rest)


def column_log_sums(
    features: Float[Array, "R F"],
    prototypes: Float[Array, "F K"],
    offsets: Float[Array, " R"],
    temperature: Temperature,
) -> Float[Array, " K"]:
    """``logsumexp(z / temperature - offset)`` over rows, at least float32.

    An offset of infinity leaves its row out. With `row_log_sums` as offsets these are, up to the
    centre, the logarithms of how much the softmax targets use each prototype.
    """
    (rows, width), columns, wide = features.shape, prototypes.shape[1], widen(features).dtype
    (n, r), (m, k) = split_evenly(rows, TILE, SUBLANES), split_evenly(columns, TILE, LANES)
    sums = pl.pallas_call(
        _column_log_sums,
        jax.ShapeDtypeStruct((1, m * k), wide),
        grid=(m, n),
        in_specs=[
            tiles.SCALAR,
            pl.BlockSpec((r, width), lambda j, i: (i, 0)),
            pl.BlockSpec((width, k), lambda j, i: (0, j)),
            pl.BlockSpec((r, 1), lambda j, i: (i, 0)),
        ],
        out_specs=pl.BlockSpec((1, k), lambda j, i: (0, j)),
        scratch_shapes=[pltpu.VMEM((PARTIAL, k), wide)] * 2,
        compiler_params=tiles.options("parallel", "arbitrary"),
        cost_estimate=pl.CostEstimate(
            flops=2 * n * r * m * k * width,
            transcendentals=n * r * m * k,
            bytes_accessed=passes(m, n) * n * r * (width * features.dtype.itemsize + wide.itemsize)
            + m * k * (width * prototypes.dtype.itemsize + wide.itemsize),
        ),
        interpret=platform() != "tpu",
        name="column_log_sums",
    )(
        tiles.inverse(temperature, features),
        fill(features, 0, n * r),
        fill(prototypes, 1, m * k),
        fill(offsets[:, None].astype(wide), 0, n * r, jnp.inf),
    )
    return sums[0, :columns]


def _column_log_sums(inverse, x, columns, offsets, out, peak, rest) -> None:
    def logits(part: slice) -> Float[Array, "r k"]:
        return multiply(x[part, :], columns[...]) * inverse[0] - offsets[part, :]

    _add_tile(logits, x.shape[0], 0, out, peak, rest)


def _add_tile(
    logits: Callable[[slice], Float[Array, "r k"]],
    size: int,
    axis: int,
    out: Any,
    peak: Any,
    rest: Any,
) -> None:
    """One more tile, of `size` along `axis` and the grid's inner one, to the sums over `axis`.

    Until the last tile there are as many sums as a register is long: joining them for every tile
    would keep other units waiting.
    """
    tile, unit = pl.program_id(1), peak.shape[axis]

    def fold(op: Callable[[Array, Array], Array], x: Float[Array, "r k"]) -> Array:
        starts = range(0, x.shape[axis], unit)
        return functools.reduce(
            op, (jax.lax.slice_in_dim(x, i, i + unit, axis=axis) for i in starts)
        )

    @pl.when(tile == 0)
    def _():
        # The lowest finite number, not -inf, whose difference with itself would be NaN.
        peak[...] = jnp.full_like(peak, jnp.finfo(peak.dtype).min)
        rest[...] = jnp.zeros_like(rest)

    for start in range(0, size, PART):
        x = logits(slice(start, min(start + PART, size)))
        higher = jnp.maximum(peak[...], fold(jnp.maximum, x))
        repeated = jnp.concatenate([higher] * (x.shape[axis] // unit), axis)
        rest[...] = rest[...] * jnp.exp(peak[...] - higher) + fold(jnp.add, jnp.exp(x - repeated))
        peak[...] = higher

    @pl.when(tile == pl.num_programs(1) - 1)
    def _():
        highest = peak[...].max(axis=axis, keepdims=True)
        sums = (rest[...] * jnp.exp(peak[...] - highest)).sum(axis=axis, keepdims=True)
        out[...] = highest + jnp.log(sums)
