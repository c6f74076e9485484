"""Backward pass of attention on a Hopper GPU (FlashAttention, arXiv:2307.08691, section 3.2).

Weights are computed again, once per kernel: one has queries and lets keys pass by, the other has
keys and lets queries pass by. So each sum is in one place, in one order, without atomics.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from dinojax.kernels.attention_gpu_forward import (
    LOG2_E,
    Images,
    PerQuery,
    Tables,
    without_padding,
)
from dinojax.kernels.stream_gpu import (
    Plan,
    Stream,
    barriers,
    copy_in,
    copy_out,
    tables_of,
    turn,
    turn_in_place,
)
from dinojax.kernels.tiles_gpu import ROWS, WARPGROUP, Ref, Transposed, per_column, per_row
from dinojax.precision import widen
from dinojax.typing import Array


def backward(
    plan: Plan,
    q: Images,
    k: Images,
    v: Images,
    out: Images,
    d_out: Images,
    tables: Tables | None,
    sums: PerQuery,
) -> tuple[Images, Images, Images]:
    """Gradients with respect to `q`, `k` and `v`, before RoPE; `sums` are those of `forward`."""
    overlap = jnp.einsum("RNHd,RNHd->RHN", widen(out), widen(d_out))
    padding = plan.tiles * ROWS - plan.tokens
    overlaps = jnp.pad(overlap, ((0, 0), (0, 0), (0, padding))).reshape(sums.shape)
    given = (q, k, v, d_out, tables, sums, overlaps)
    d_q = query_gradient(plan, *given)
    return d_q, *key_value_gradients(plan, *given)


def query_gradient(
    plan: Plan,
    q: Images,
    k: Images,
    v: Images,
    d_out: Images,
    tables: Tables | None,
    sums: PerQuery,
    overlaps: PerQuery,
) -> Images:
    """``dq = scale * sum_k w (d_out . v - d_out . out) k``."""
    images, tokens, heads, width = q.shape
    machine = plan.machine
    turned, plain = range(plan.turned.count), range(plan.plain.count)
    scale = width**-0.5

    def attention_query_gradient(
        q_ref, k_ref, v_ref, do_ref, tables_ref, sums_ref, overlaps_ref, dq_ref,
        queries, d_outs, keys, values, wait,
    ):  # fmt: skip
        image, head, me = (lax.axis_index(axis) for axis in ("image", "head", WARPGROUP))
        tile = lax.axis_index("block") * plan.warpgroups + me
        rope = tables_of(tables_ref, images, image)
        k_head, v_head = k_ref.at[image, :, head], v_ref.at[image, :, head]
        stream = Stream(plan, k_head, v_head, keys, values, rope, wait)

        stream.start()
        own = wait.own.at[me]
        copy_in(plan, plan.turned, q_ref.at[image, :, head], tile, queries, (me,), own)
        copy_in(plan, plan.plain, do_ref.at[image, :, head], tile, d_outs, (me,), own)
        top = machine.read_vector(sums_ref.at[image, head, tile], 0)
        overlap = machine.read_vector(overlaps_ref.at[image, head, tile], 0)
        machine.wait(own)
        turn_in_place(plan, queries, (me,), rope, tile)

        def step(block, slot, gradient, last):
            for w in range(plan.warpgroups):
                logits, slopes = machine.add_products(
                    [machine.full(ROWS, 0.0)] * 2,
                    [
                        [(queries.at[me, p], Transposed(keys.at[slot, w, p])) for p in turned],
                        [(d_outs.at[me, p], Transposed(values.at[slot, w, p])) for p in plain],
                    ],
                )
                weights = jnp.exp2(logits * (scale * LOG2_E) - per_row(top, logits))
                if last:  # these may even be infinite
                    weights = without_padding(plan, w, weights, 0.0)
                slopes = (weights * (slopes - per_row(overlap, slopes))).astype(q.dtype)
                gradient = machine.add_products(
                    gradient, [[(slopes, keys.at[slot, w, p])] for p in turned]
                )
            return gradient

        zeros = tuple(machine.full(plan.turned.width, 0.0) for _ in turned)
        gradient = stream.fold(step, zeros)
        turn_back(plan, [x * scale for x in gradient], queries, (me,), rope, tile)
        copy_out(plan, plan.turned, queries, (me,), dq_ref.at[image, :, head], tile)
        machine.finish()

    rows = machine.output_rows(tokens)
    return plan.kernel(
        attention_query_gradient,
        images,
        heads,
        out_type=jax.ShapeDtypeStruct((images, rows, heads, width), q.dtype),
        scratch_types=scratch(plan, q.dtype),
    )(q, k, v, d_out, tables, sums, overlaps)[:, :tokens]


def key_value_gradients(
    plan: Plan,
    q: Images,
    k: Images,
    v: Images,
    d_out: Images,
    tables: Tables | None,
    sums: PerQuery,
    overlaps: PerQuery,
) -> tuple[Images, Images]:
    """``dk = scale * sum_q w (d_out . v - d_out . out) q`` and ``dv = sum_q w d_out``.

    Tokens after the last one need no care: as queries they and their `d_out` are zeros, and what
    they are as keys is not written.
    """
    images, tokens, heads, width = q.shape
    machine = plan.machine
    turned, plain = range(plan.turned.count), range(plan.plain.count)
    scale = width**-0.5

    def attention_key_value_gradients(
        q_ref, k_ref, v_ref, do_ref, tables_ref, sums_ref, overlaps_ref, dk_ref, dv_ref,
        keys, values, queries, d_outs, wait,
    ):  # fmt: skip
        image, head, me = (lax.axis_index(axis) for axis in ("image", "head", WARPGROUP))
        tile = lax.axis_index("block") * plan.warpgroups + me
        rope = tables_of(tables_ref, images, image)
        q_head, do_head = q_ref.at[image, :, head], do_ref.at[image, :, head]
        stream = Stream(plan, q_head, do_head, queries, d_outs, rope, wait)

        stream.start()
        own = wait.own.at[me]
        copy_in(plan, plan.turned, k_ref.at[image, :, head], tile, keys, (me,), own)
        copy_in(plan, plan.plain, v_ref.at[image, :, head], tile, values, (me,), own)
        machine.wait(own)
        turn_in_place(plan, keys, (me,), rope, tile)

        def step(block, slot, gradients, last):
            d_keys, d_values = gradients
            for w in range(plan.warpgroups):
                there = block * plan.warpgroups + w
                top = machine.read_vector(sums_ref.at[image, head, there], 1)
                (logits,) = machine.add_products(
                    [machine.full(ROWS, 0.0)],
                    [[(keys.at[me, p], Transposed(queries.at[slot, w, p])) for p in turned]],
                )
                weights = jnp.exp2(logits * (scale * LOG2_E) - per_column(top, logits))
                rounded = weights.astype(q.dtype)
                *d_values, slopes = machine.add_products(
                    [*d_values, machine.full(ROWS, 0.0)],
                    [
                        *([(rounded, d_outs.at[slot, w, p])] for p in plain),
                        [(values.at[me, p], Transposed(d_outs.at[slot, w, p])) for p in plain],
                    ],
                )
                overlap = machine.read_vector(overlaps_ref.at[image, head, there], 1)
                slopes = (weights * (slopes - per_column(overlap, slopes))).astype(q.dtype)
                d_keys = machine.add_products(
                    d_keys, [[(slopes, queries.at[slot, w, p])] for p in turned]
                )
            return d_keys, tuple(d_values)

        zeros = (
            tuple(machine.full(plan.turned.width, 0.0) for _ in turned),
            tuple(machine.full(plan.plain.width, 0.0) for _ in plain),
        )
        d_keys, d_values = stream.fold(step, zeros)
        turn_back(plan, [x * scale for x in d_keys], keys, (me,), rope, tile)
        for p, x in enumerate(d_values):
            machine.write(values.at[me, p], x.astype(values.dtype))
        copy_out(plan, plan.turned, keys, (me,), dk_ref.at[image, :, head], tile)
        copy_out(plan, plan.plain, values, (me,), dv_ref.at[image, :, head], tile)
        machine.finish()

    rows = machine.output_rows(tokens)
    shape = jax.ShapeDtypeStruct((images, rows, heads, width), q.dtype)
    d_k, d_v = plan.kernel(
        attention_key_value_gradients,
        images,
        heads,
        out_type=[shape, shape],
        scratch_types=scratch(plan, q.dtype),
    )(q, k, v, d_out, tables, sums, overlaps)
    return d_k[:, :tokens], d_v[:, :tokens]


def scratch(plan: Plan, dtype: DTypeLike) -> list[Any]:
    """Shared memory and barriers of both kernels: two own tiles, two arrays that pass by."""
    return [
        plan.own(plan.turned, dtype),
        plan.own(plan.plain, dtype),
        plan.streamed(plan.turned, dtype),
        plan.streamed(plan.plain, dtype),
        barriers(plan, own=plan.turned.count + plan.plain.count),
    ]


def turn_back(
    plan: Plan, gradient: list[Array], target: Ref, at: tuple, tables: Ref | None, tile: Array
) -> None:
    """Write a gradient of turned features as one of the features themselves."""
    if tables is not None:
        cos, sin = (plan.machine.read(tables.at[tile, i]) for i in range(2))
        low, high = gradient
        gradient = list(turn(low, high, cos, -sin))
    for part, x in enumerate(gradient):
        plan.machine.write(target.at[(*at, part)], x.astype(target.dtype))
