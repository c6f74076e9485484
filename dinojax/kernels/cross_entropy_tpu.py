"""Cross-entropy with soft targets over prototypes, and its gradients, as one Pallas TPU kernel.

Student and teacher logits are products of narrow features and many prototypes (see `log_sums_tpu`,
which brings the normalisers). A tile of both is made in VMEM, gives its part of the loss and the
slopes at the student's logits, and these give their part of both gradients: four products in all,
and nothing of the size of the logits in HBM.

All prototypes pass by once for as many rows as VMEM holds together with their gradients.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dinojax.kernels import tiles_tpu as tiles
from dinojax.kernels.on_device import platform
from dinojax.kernels.tiles_tpu import LANES, SUBLANES, Temperature, fill, multiply, split_evenly
from dinojax.precision import widen
from dinojax.typing import Array, Float

ROWS, COLUMNS = 512, 1024
"""The most of a tile of student logits: 2 MiB in float32, and several such arrays are alive."""
RESIDENT_BYTES = 24 * 2**20
"""Of VMEM, for the rows that the prototypes pass by."""
CORES = 2
"""Of a v5p, which take half of the prototypes each; a chip of one core takes them in turn."""


def cross_entropy(
    student: Float[Array, "s R F"],
    prototypes: Float[Array, "F K"],
    student_sums: Float[Array, "s R"],
    teacher: Float[Array, "t R F"],
    target_prototypes: Float[Array, "F K"],
    center: Float[Array, " K"],
    teacher_temperature: Temperature,
    teacher_sums: Float[Array, "t R"],
    weights: Float[Array, " R"],
    crop_weights: Float[Array, " s"],
    *,
    pairs: np.ndarray,
    temperature: float,
) -> tuple[Float[Array, " s"], Float[Array, "s R F"], Float[Array, "F K"]]:
    """Each student crop's sum over rows of weight times cross-entropy with the sum of the teachers.

    Args:
        student_sums: `row_log_sums` at `temperature` without a centre.
        teacher_sums: those at `teacher_temperature` with `center`.
        pairs: ``[s, t]``, 1 where a teacher crop is a target of a student crop, else 0.

    Returns:
        The sums, and the gradients of ``crop_weights @ sums`` by student features and by
        prototypes, all at least float32.
    """
    wide, (students, rows, width), teachers = widen(student).dtype, student.shape, len(teacher)
    count, r = split_evenly(rows, max(ROWS // students, SUBLANES), SUBLANES)
    parts, n = split_evenly(count, max(_resident_rows(student, teacher) // r, 1), 1)
    m, k = split_evenly(pl.cdiv(prototypes.shape[1], CORES), COLUMNS, LANES)
    columns = CORES * m * k

    def tiled(x: Float[Array, "V R X"], value: float = 0.0) -> Float[Array, "parts nVr X"]:
        """The rows of a tile side by side, crop-major."""
        filled = fill(x, 1, parts * n * r, value)
        return rearrange(filled, "V (p n r) X -> p (n V r) X", p=parts, n=n)

    def resident(crops: int, numbers: int) -> pl.BlockSpec:
        once = pl.Buffered(1)  # nothing to fetch behind the first
        return pl.BlockSpec((n * crops * r, numbers), lambda c, j, i: (0, 0), pipeline_mode=once)

    def passing(height: int) -> pl.BlockSpec:
        return pl.BlockSpec((height, k), lambda c, j, i: (0, c * m + j))

    item, all_rows = student.dtype.itemsize, n * (students + teachers) * r
    statistics = n * (2 * students + teachers) * r
    kernel = pl.pallas_call(
        functools.partial(_kernel, pairs=pairs, inverse=1 / temperature),
        (
            jax.ShapeDtypeStruct((students, columns), wide),
            jax.ShapeDtypeStruct((CORES, n * students * r, width), wide),
            jax.ShapeDtypeStruct((width, columns), wide),
        ),
        grid=(CORES, m, n),
        in_specs=[
            *(tiles.SCALAR, tiles.SCALAR),
            *(resident(students, width), resident(students, 2)),
            *(resident(teachers, width), resident(teachers, 1)),
            *(passing(width), passing(width), passing(1)),
        ],
        out_specs=(
            passing(students),
            pl.BlockSpec((None, n * students * r, width), lambda c, j, i: (c, 0, 0)),
            passing(width),
        ),
        scratch_shapes=[pltpu.VMEM((students * r, k), student.dtype)],
        compiler_params=tiles.options("parallel", "arbitrary", "arbitrary"),
        cost_estimate=pl.CostEstimate(
            flops=2 * n * (3 * students + teachers) * r * columns * width,
            transcendentals=all_rows * columns,
            bytes_accessed=all_rows * width * item
            + statistics * wide.itemsize
            + CORES * n * students * r * width * wide.itemsize
            + columns * (width * (2 * item + wide.itemsize) + (1 + students) * wide.itemsize),
        ),
        interpret=platform() != "tpu",
        name="cross_entropy",
    )
    scalars = (tiles.inverse(teacher_temperature, student), crop_weights.astype(wide) / temperature)
    weights = jnp.broadcast_to(weights.astype(wide), (students, rows))
    shared = (
        fill(prototypes, 1, columns),
        fill(target_prototypes, 1, columns),
        fill(center[None].astype(wide), 1, columns, jnp.inf),
    )

    def part(
        sums: tuple[Array, Array], rows: tuple[Array, ...]
    ) -> tuple[tuple[Array, Array], Array]:
        costs, by_features, by_prototypes = kernel(*scalars, *rows, *shared)
        return (sums[0] + costs.sum(axis=1), sums[1] + by_prototypes), by_features.sum(axis=0)

    (costs, by_prototypes), by_features = jax.lax.scan(
        part,
        (jnp.zeros(students, wide), jnp.zeros((width, columns), wide)),
        (
            tiled(student),
            tiled(jnp.stack([student_sums, weights], axis=-1)),
            tiled(teacher),
            tiled(teacher_sums[..., None], jnp.inf),  # no targets, whatever the centre
        ),
    )
    by_features = rearrange(by_features, "p (n V r) F -> V (p n r) F", V=students, n=n)
    return costs, by_features[:, :rows], by_prototypes[:, : prototypes.shape[1]]


def _resident_rows(student: Float[Array, "s R F"], teacher: Float[Array, "t R F"]) -> int:
    """Gradients are there twice: those of one core are written while the next core's are summed."""
    width, item, wide = student.shape[-1], student.dtype.itemsize, widen(student).dtype.itemsize
    statistics = LANES * wide
    bytes_per_row = len(student) * (width * (item + 2 * wide) + statistics)
    return RESIDENT_BYTES // (bytes_per_row + len(teacher) * (width * item + statistics))


def _kernel(
    teacher_inverse: Any,
    crop_slopes: Any,
    student: Any,
    statistics: Any,
    teacher: Any,
    teacher_sums: Any,
    prototypes: Any,
    target_prototypes: Any,
    center: Any,
    costs: Any,
    by_features: Any,
    by_prototypes: Any,
    slopes: Any,
    *,
    pairs: np.ndarray,
    inverse: float,
) -> None:
    """`statistics` of a student's row: its logarithm of sums and its weight, that of all crops.
    `crop_slopes` are at its logits, per unit of probability. `slopes` is where those of a tile are
    put together."""
    tile, step = pl.program_id(1), pl.program_id(2)
    (students, teachers), count = pairs.shape, slopes.shape[0]
    r = count // students
    ours = pl.ds(pl.multiple_of(step * count, count), count)
    theirs = pl.ds(pl.multiple_of(step * teachers * r, teachers * r), teachers * r)

    @pl.when(step == 0)
    def _():
        costs[...] = jnp.zeros_like(costs)
        by_prototypes[...] = jnp.zeros_like(by_prototypes)

    @pl.when(tile == 0)
    def _():
        by_features[ours, :] = jnp.zeros((count, by_features.shape[-1]), by_features.dtype)

    logits = multiply(teacher[theirs, :], target_prototypes[...]) - center[...]
    probs = jnp.exp(logits * teacher_inverse[0] - teacher_sums[theirs, :])
    log_probs = multiply(student[ours, :], prototypes[...]) * inverse - statistics[ours, :1]
    weight = statistics[pl.ds(pl.multiple_of(step * count, count), r), 1:]
    rows = [tuple(row) for row in pairs.tolist()]
    targets = {
        row: weight * sum(probs[t * r : (t + 1) * r] for t in range(teachers) if row[t])
        for row in rows
    }
    for s, row in enumerate(rows):
        crop, target = slice(s * r, (s + 1) * r), targets[row]
        costs[s : s + 1, :] -= (target * log_probs[crop]).sum(axis=0, keepdims=True)
        slope = crop_slopes[s] * (sum(row) * weight * jnp.exp(log_probs[crop]) - target)
        slopes[crop, :] = slope.astype(slopes.dtype)
    by_features[ours, :] += multiply(slopes[...], prototypes[...], (1, 1))
    by_prototypes[...] += multiply(student[ours, :], slopes[...], (0, 0))
