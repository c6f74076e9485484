"""Forward pass of attention on a Hopper GPU (FlashAttention, arXiv:2205.14135 and 2407.08608)."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from dinojax.kernels.stream_gpu import (
    Plan,
    Stream,
    barriers,
    copy_in,
    copy_out,
    tables_of,
    turn_in_place,
)
from dinojax.kernels.tiles_gpu import ROWS, WARPGROUP, Transposed, per_row
from dinojax.typing import Array, Float

LOG2_E = math.log2(math.e)
Images = Float[Array, "R N H d"]
Tables = Float[Array, "T tiles 2 64 half"]
PerQuery = Float[Array, "R H tiles 64"]
"""A number for each query, by tiles as a program reads and writes them."""


def forward(
    plan: Plan, q: Images, k: Images, v: Images, tables: Tables | None
) -> tuple[Images, PerQuery]:
    """Attention, and per query log2 of the sum of ``2^logit`` with logits to base 2.

    A warpgroup has 64 queries; keys and values pass by. Softmax and sums are float32, weights are
    rounded to the dtype of `v` for the second product.
    """
    images, tokens, heads, width = q.shape
    machine, group = plan.machine, range(plan.warpgroups)
    turned, plain = range(plan.turned.count), range(plan.plain.count)
    to_base_2 = width**-0.5 * LOG2_E

    def attention_forward(
        q_ref, k_ref, v_ref, tables_ref, out_ref, sums_ref, queries, out, keys, values, wait
    ):
        image, head, me = (lax.axis_index(axis) for axis in ("image", "head", WARPGROUP))
        tile = lax.axis_index("block") * plan.warpgroups + me
        rope = tables_of(tables_ref, images, image)
        k_head, v_head = k_ref.at[image, :, head], v_ref.at[image, :, head]
        stream = Stream(plan, k_head, v_head, keys, values, rope, wait)

        def step(block, slot, carry, last):
            sums, top, total = carry
            logits = machine.add_products(
                [machine.full(ROWS, 0.0) for _ in group],
                [
                    [(queries.at[me, p], Transposed(keys.at[slot, w, p])) for p in turned]
                    for w in group
                ],
            )
            if last:
                logits = [without_padding(plan, w, x, -jnp.inf) for w, x in enumerate(logits)]
            higher = top
            for x in logits:
                higher = jnp.maximum(higher, x.max(axis=1) * to_base_2)
            weights = [jnp.exp2(x * to_base_2 - per_row(higher, x)) for x in logits]
            shrink = jnp.exp2(top - higher)
            total = total * shrink
            for x in weights:
                total = total + x.sum(axis=1)
            rounded = [x.astype(v.dtype) for x in weights]
            sums = machine.add_products(
                [x * per_row(shrink, x) for x in sums],
                [[(rounded[w], values.at[slot, w, p]) for w in group] for p in plain],
            )
            return sums, higher, total

        stream.start()
        copy_in(plan, plan.turned, q_ref.at[image, :, head], tile, queries, (me,), wait.own.at[me])
        machine.wait(wait.own.at[me])
        turn_in_place(plan, queries, (me,), rope, tile)
        zeros = tuple(machine.full(plan.plain.width, 0.0) for _ in plain)
        start = zeros, machine.full_vector(-jnp.inf), machine.full_vector(0.0)
        sums, top, total = stream.fold(step, start)

        sums_ref[image, head, tile] = top + jnp.log2(total)
        for p, x in enumerate(sums):
            machine.write(out.at[me, p], (x / per_row(total, x)).astype(out.dtype))
        copy_out(plan, plan.plain, out, (me,), out_ref.at[image, :, head], tile)
        machine.finish()

    rows = machine.output_rows(tokens)
    out, sums = plan.kernel(
        attention_forward,
        images,
        heads,
        out_type=[
            jax.ShapeDtypeStruct((images, rows, heads, width), q.dtype),
            jax.ShapeDtypeStruct((images, heads, plan.tiles, ROWS), jnp.float32),
        ],
        scratch_types=[
            plan.own(plan.turned, q.dtype),
            plan.own(plan.plain, q.dtype),
            plan.streamed(plan.turned, q.dtype),
            plan.streamed(plan.plain, q.dtype),
            barriers(plan, own=plan.turned.count),
        ],
    )(q, k, v, tables)
    return out[:, :tokens], sums


def without_padding(plan: Plan, warpgroup: int, x: Array, value: float) -> Array:
    """`value` in those columns of a tile of the last block that are no tokens."""
    left = plan.tokens - ((plan.blocks - 1) * plan.warpgroups + warpgroup) * ROWS
    return x if left >= ROWS else jnp.where(plan.machine.columns() < left, x, value)
