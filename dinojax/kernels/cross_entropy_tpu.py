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
    *,
    pairs: np.ndarray,
    temperature: float,
    interpret: bool = False,
) -> tuple[Float[Array, ""], Float[Array, "s R F"], Float[Array, "F K"]]:
    """Sum over rows and student crops of weight times cross-entropy with the sum of the teachers.

    Args:
        student_sums: `row_log_sums` at `temperature` without a centre.
        teacher_sums: those at `teacher_temperature` with `center`.
        pairs: ``[s, t]``, 1 where a teacher crop is a target of a student crop, else 0.

    Returns:
        The loss, and its gradients by student features and by prototypes, all at least float32.
    """
    wide, (students, rows, _), columns = widen(student).dtype, student.shape, prototypes.shape[1]
    count, r = split_evenly(rows, max(ROWS // students, SUBLANES), SUBLANES)
    parts, n = split_evenly(count, max(_resident_rows(student, teacher) // r, 1), 1)
    m, k = split_evenly(pl.cdiv(columns, CORES), COLUMNS, LANES)

    def tiled(x: Float[Array, "V R X"], value: float = 0.0) -> Float[Array, "parts nVr X"]:
        """The rows of a tile side by side, crop-major."""
        filled = fill(x, 1, parts * n * r, value)
        return rearrange(filled, "V (p n r) X -> p (n V r) X", p=parts, n=n)

    slopes = jnp.broadcast_to(weights.astype(wide) / temperature, (students, rows))
    targets = jnp.asarray(pairs.sum(axis=1, keepdims=True), wide)
    given = (
        tiled(student),
        tiled(jnp.stack([student_sums, targets * slopes, slopes], axis=-1)),
        tiled(teacher),
        tiled(teacher_sums[..., None], jnp.inf),  # no targets, whatever the centre
    )
    shared = (
        fill(prototypes, 1, CORES * m * k),
        fill(target_prototypes, 1, CORES * m * k),
        fill(center[None].astype(wide), 1, CORES * m * k, jnp.inf),
    )
    kernel = _make_kernel(student, teacher, pairs, 1 / temperature, (m, k), (n, r), interpret)
    scalar = tiles.inverse(teacher_temperature, student)

    def part(sums, given):
        costs, by_features, by_prototypes = kernel(scalar, *given, *shared)
        sums = (sums[0] + costs.sum(), sums[1] + by_prototypes)
        return sums, by_features.sum(axis=0)

    start = jnp.zeros((), wide), jnp.zeros(shared[0].shape, wide)
    (value, by_prototypes), by_features = jax.lax.scan(part, start, given)
    by_features = rearrange(by_features, "p (n V r) F -> V (p n r) F", V=students, n=n)
    return temperature * value, by_features[:, :rows], by_prototypes[:, :columns]


def _resident_rows(student: Float[Array, "s R F"], teacher: Float[Array, "t R F"]) -> int:
    """Gradients are there twice: those of one core are written while the next core's are summed."""
    width, item, wide = student.shape[-1], student.dtype.itemsize, widen(student).dtype.itemsize
    statistics = LANES * wide
    bytes_per_row = len(student) * (width * (item + 2 * wide) + statistics)
    return RESIDENT_BYTES // (bytes_per_row + len(teacher) * (width * item + statistics))


def _make_kernel(student, teacher, pairs, inverse, columns, rows, interpret):
    """For tiles as (number, length): of each core's columns, of rows."""
    (m, k), (n, r), width = columns, rows, student.shape[-1]
    wide, item = widen(student).dtype, student.dtype.itemsize
    crops, theirs = len(student), len(teacher)

    def resident(crops: int, width: int) -> pl.BlockSpec:
        return pl.BlockSpec(
            (n * crops * r, width), lambda p, j, i: (0, 0), pipeline_mode=pl.Buffered(1)
        )

    def passing(height: int) -> pl.BlockSpec:
        return pl.BlockSpec((height, k), lambda p, j, i: (0, p * m + j))

    gradients = pl.BlockSpec((None, n * crops * r, width), lambda p, j, i: (p, 0, 0))
    ours, both = n * crops * r, n * (crops + theirs) * r
    moved = both * (width * item + LANES * wide.itemsize) + CORES * ours * width * wide.itemsize
    moved += CORES * m * k * width * (2 * item + wide.itemsize)
    return pl.pallas_call(
        functools.partial(_kernel, pairs=pairs, inverse=inverse, rows=r),
        (
            jax.ShapeDtypeStruct((1, CORES * m * k), wide),
            jax.ShapeDtypeStruct((CORES, ours, width), wide),
            jax.ShapeDtypeStruct((width, CORES * m * k), wide),
        ),
        grid=(CORES, m, n),
        in_specs=[
            tiles.SCALAR,
            *(resident(crops, width), resident(crops, 3)),
            *(resident(theirs, width), resident(theirs, 1)),
            *(passing(width), passing(width), passing(1)),
        ],
        out_specs=(passing(1), gradients, passing(width)),
        scratch_shapes=[pltpu.VMEM((crops * r, k), student.dtype)],
        compiler_params=tiles.options("parallel", "arbitrary", "arbitrary"),
        cost_estimate=pl.CostEstimate(
            flops=2 * (3 * ours + n * theirs * r) * CORES * m * k * width,
            transcendentals=both * CORES * m * k,
            bytes_accessed=moved,
        ),
        interpret=interpret,
        name="cross_entropy",
    )


def _kernel(
    teacher_inverse: Any,
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
    rows: int,
) -> None:
    _, tile, step = (pl.program_id(axis) for axis in range(3))
    students, teachers = pairs.shape
    ours, theirs = (
        pl.ds(pl.multiple_of(step * count, count), count)
        for count in (students * rows, teachers * rows)
    )

    @pl.when(step == 0)
    def _():
        costs[...] = jnp.zeros_like(costs)
        by_prototypes[...] = jnp.zeros_like(by_prototypes)

    @pl.when(tile == 0)
    def _():
        by_features[ours, :] = jnp.zeros((students * rows, by_features.shape[-1]), costs.dtype)

    scaled = (multiply(teacher[theirs, :], target_prototypes[...]) - center[...]) * teacher_inverse[0]
    probs = jnp.split(jnp.exp(scaled - teacher_sums[theirs, :]), teachers)
    sums = {
        allowed: sum(probs[t] for t in range(teachers) if allowed[t])
        for allowed in map(tuple, pairs)
    }
    log_probs = multiply(student[ours, :], prototypes[...]) * inverse - statistics[ours, :1]
    for s, allowed in enumerate(map(tuple, pairs)):
        crop = slice(s * rows, (s + 1) * rows)
        gains = statistics[pl.ds(step * students * rows + s * rows, rows), :]
        target = gains[:, 2:] * sums[allowed]
        costs[...] -= (target * log_probs[crop]).sum(axis=0, keepdims=True)
        slopes[crop, :] = (gains[:, 1:2] * jnp.exp(log_probs[crop]) - target).astype(slopes.dtype)
    by_features[ours, :] += multiply(slopes[...], prototypes[...], (1, 1))
    by_prototypes[...] += multiply(student[ours, :], slopes[...], (0, 0))
