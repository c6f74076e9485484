"""Logarithms of sums of exponentiated logits, by rows and by columns, as Pallas TPU kernels.

Logits are ``z = features @ prototypes``. They exist as one tile in VMEM, with a running peak and
the sum of exponentials relative to it. These two sums in turns are Sinkhorn-Knopp. Neither can start
before the other is complete, over all prototypes or over all rows, so each costs one product.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dinojax.kernels import tiles_tpu as tiles
from dinojax.kernels.tiles_tpu import LANES, SUBLANES, Temperature, fill, multiply, split_evenly
from dinojax.precision import widen
from dinojax.typing import Array, Float

LONG, SHORT = 2048, 512
"""The most of a tile along the grid's outer axis, whose operand stays, and along the inner one,
whose operand is read again for every tile of the outer: that many products for each number read."""


def row_log_sums(
    features: Float[Array, "R F"],
    prototypes: Float[Array, "F K"],
    center: Float[Array, " K"],
    temperature: Temperature,
    *,
    interpret: bool = False,
) -> Float[Array, " R"]:
    """``logsumexp((z - center) / temperature)`` over prototypes, at least float32."""
    (rows, width), columns, wide = features.shape, prototypes.shape[1], widen(features).dtype
    n, r = split_evenly(rows, LONG, SUBLANES)
    m, k = split_evenly(columns, SHORT, LANES)
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
        scratch_shapes=[pltpu.VMEM((r, 1), wide)] * 2,
        compiler_params=tiles.options("parallel", "arbitrary"),
        cost_estimate=tiles.cost(
            n * r * m * k,
            width,
            products=1,
            exponentials=1,
            moved=n * r * width * features.dtype.itemsize
            + n * m * k * (width * prototypes.dtype.itemsize + wide.itemsize),
        ),
        interpret=interpret,
        name="row_log_sums",
    )(
        tiles.inverse(temperature, features),
        fill(features, 0, n * r),
        fill(prototypes, 1, m * k),
        fill(center[None].astype(wide), 1, m * k, jnp.inf),
    )
    return sums[:rows, 0]


def _row_log_sums(inverse, x, columns, center, out, peak, rest) -> None:
    scaled = (multiply(x[...], columns[...]) - center[...]) * inverse[0]
    _add(scaled, out, peak, rest, axis=1)


def column_log_sums(
    features: Float[Array, "R F"],
    prototypes: Float[Array, "F K"],
    offsets: Float[Array, " R"],
    temperature: Temperature,
    *,
    interpret: bool = False,
) -> Float[Array, " K"]:
    """``logsumexp(z / temperature - offset)`` over rows, at least float32.

    An offset of infinity leaves its row out. With `row_log_sums` as offsets these are, up to the
    centre, the logarithms of how much the softmax targets use each prototype.
    """
    (rows, width), columns, wide = features.shape, prototypes.shape[1], widen(features).dtype
    n, r = split_evenly(rows, SHORT, SUBLANES)
    m, k = split_evenly(columns, LONG, LANES)
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
        scratch_shapes=[pltpu.VMEM((1, k), wide)] * 2,
        compiler_params=tiles.options("parallel", "arbitrary"),
        cost_estimate=tiles.cost(
            n * r * m * k,
            width,
            products=1,
            exponentials=1,
            moved=m * n * r * (width * features.dtype.itemsize + LANES * wide.itemsize)
            + m * k * width * prototypes.dtype.itemsize,
        ),
        interpret=interpret,
        name="column_log_sums",
    )(
        tiles.inverse(temperature, features),
        fill(features, 0, n * r),
        fill(prototypes, 1, m * k),
        fill(offsets[:, None].astype(wide), 0, n * r, jnp.inf),
    )
    return sums[0, :columns]


def _column_log_sums(inverse, x, columns, offset, out, peak, rest) -> None:
    scaled = multiply(x[...], columns[...]) * inverse[0] - offset[...]
    _add(scaled, out, peak, rest, axis=0)


def _add(scaled: Float[Array, "r k"], out: Any, peak: Any, rest: Any, *, axis: int) -> None:
    """One more tile, along the grid's inner axis, to the running sums over `axis`."""
    tile = pl.program_id(1)

    @pl.when(tile == 0)
    def _():
        # The lowest finite number, not -inf, whose difference with itself would be NaN.
        peak[...] = jnp.full_like(peak, jnp.finfo(peak.dtype).min)
        rest[...] = jnp.zeros_like(rest)

    higher = jnp.maximum(peak[...], scaled.max(axis=axis, keepdims=True))
    sums = jnp.exp(scaled - higher).sum(axis=axis, keepdims=True)
    rest[...] = rest[...] * jnp.exp(peak[...] - higher) + sums
    peak[...] = higher

    @pl.when(tile == pl.num_programs(1) - 1)
    def _():
        out[...] = peak[...] + jnp.log(rest[...])
