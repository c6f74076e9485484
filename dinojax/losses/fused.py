"""The cross-entropies and Sinkhorn-Knopp of `chunked` by TPU kernels: no logits in HBM at all.

Kernels see what lies on one device. Here is what devices have to tell each other: with prototypes
over the mesh's tensor axis the logarithms of sums over a row and the gradients of features, and
over the batch's axes those of columns. Gradients of prototypes leave one by one for each device and
are summed outside, to where the optimizer's moments lie.

As in `chunked` the gradient is taken in the forward pass.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import PartitionSpec

from dinojax.kernels.cross_entropy_tpu import cross_entropy
from dinojax.kernels.log_sums_tpu import column_log_sums, row_log_sums
from dinojax.losses.chunked import Rows, TeacherRows, columns_of, scale_gradients
from dinojax.losses.dino import crop_pairs
from dinojax.mesh import BATCH_AXES, current_tensor_axis, on_each_device
from dinojax.typing import Array, Bool, Float


class _Options(NamedTuple):
    temperature: float
    pairs: tuple[tuple[float, ...], ...]


def fused_dino_loss(
    student: Rows,
    teacher: TeacherRows,
    weights: Float[Array, " s"],
    *,
    temperature: float = 0.1,
    ignore_diagonal: bool = False,
) -> tuple[Float[Array, ""], Float[Array, " s"]]:
    """`dino_loss` of features ``[s, B, F]`` and ``[t, B, F]``, gradients are the student's."""
    (students, images, _), teachers = student.features.shape, teacher.features.shape[0]
    pairs = crop_pairs(students, teachers, ignore_diagonal=ignore_diagonal)
    options = _Options(temperature, tuple(map(tuple, pairs.tolist())))
    rows = jnp.full(images, 1 / images, teacher.center.dtype)
    loss, costs = _cross_entropy(options, student, teacher, rows, weights / pairs.sum())
    return loss, costs / pairs.sum(axis=1)


def fused_ibot_loss(
    student: Rows,
    teacher: TeacherRows,
    weights: Float[Array, "G M"],
    *,
    images: int,
    temperature: float = 0.1,
) -> Float[Array, ""]:
    """`ibot_loss` of features ``[G, M, F]``, without a gradient to the teacher or the weights."""
    ours, theirs = (rearrange(x.features, "G M F -> 1 (G M) F") for x in (student, teacher))
    loss, _ = _cross_entropy(
        _Options(temperature, ((1.0,),)),
        student._replace(features=ours),
        teacher._replace(features=theirs),
        weights.reshape(-1) / images,
        jnp.ones(1, teacher.center.dtype),
    )
    return loss


def _costs(
    options: _Options,
    student: Rows,
    teacher: TeacherRows,
    weights: Float[Array, " R"],
    crop_weights: Float[Array, " s"],
) -> tuple[Float[Array, ""], Float[Array, " s"]]:
    """As in `chunked`, of features ``[s, R, F]`` and ``[t, R, F]``."""
    return _with_gradients(options, student, teacher, weights, crop_weights)[0]


def _with_gradients(
    options, student, teacher, weights, crop_weights
) -> tuple[tuple[Float[Array, ""], Float[Array, " s"]], Rows]:
    prototypes = columns_of(student.prototypes, student.features)
    axis = current_tensor_axis(prototypes.shape[1])

    def on_device(ours, prototypes, theirs, target_prototypes, center, temperature, *weights):
        def sums(features, *softmax):
            flat = rearrange(features, "V R F -> (V R) F")
            rows = row_log_sums(flat, *softmax)
            return _log_sum_over(axis, rows).reshape(features.shape[:2])

        costs, by_features, by_prototypes = cross_entropy(
            ours,
            prototypes,
            sums(ours, prototypes, jnp.zeros_like(center), options.temperature),
            theirs,
            target_prototypes,
            center,
            temperature,
            sums(theirs, target_prototypes, center, temperature),
            *weights,
            pairs=np.asarray(options.pairs),
            temperature=options.temperature,
        )
        if axis is not None:
            costs, by_features = jax.lax.psum((costs, by_features), axis)
        return costs[None], by_features.astype(ours.dtype), by_prototypes[None]

    rows, columns = PartitionSpec(None, BATCH_AXES), PartitionSpec(None, axis)
    batch, center, every = PartitionSpec(BATCH_AXES), PartitionSpec(axis), PartitionSpec()
    costs, by_features, by_prototypes = on_each_device(
        on_device,
        (rows, columns, rows, columns, center, every, batch, every),
        (batch, rows, PartitionSpec(BATCH_AXES, None, axis)),
    )(
        student.features,
        prototypes,
        teacher.features,
        teacher.prototypes,
        teacher.center,
        jnp.asarray(teacher.temperature, teacher.center.dtype),
        weights,
        crop_weights,
    )
    costs = costs.sum(axis=0)
    by_prototypes = by_prototypes.sum(axis=0).astype(student.prototypes.dtype)
    return ((crop_weights * costs).sum(), costs), Rows(by_features, by_prototypes)


def _backward(options: _Options, gradients: Rows, cotangents: tuple[Array, Array]):
    del options
    return scale_gradients(gradients, cotangents[0]), None, None, None


_cross_entropy = jax.custom_vjp(_costs, nondiff_argnums=(0,))
_cross_entropy.defvjp(_with_gradients, _backward)


def fused_sinkhorn_center(
    features: Float[Array, "Z R F"],
    prototypes: Float[Array, "F K"],
    temperature: float | Float[Array, ""],
    *,
    iterations: int = 3,
    real: Bool[Array, "Z R"] | None = None,
) -> Float[Array, " K"]:
    """`sinkhorn_center` in two products an iteration, for its columns and its rows; no gradient.

    In log space: columns and rows get their shares in turns. The first iteration starts with
    columns and the loss ends the last with its rows, so each is one product short.
    """
    features, prototypes = jax.lax.stop_gradient((features, prototypes))
    axis = current_tensor_axis(prototypes.shape[1])
    real = jnp.ones(features.shape[:2], bool) if real is None else real
    share = jnp.log(real.sum() / prototypes.shape[1])

    def on_device(x, real, columns, temperature, share):
        (x,), (real,) = x, real

        def center_of(offsets: Float[Array, " R"]) -> Float[Array, " K"]:
            offsets = jnp.where(real, offsets, jnp.inf)
            used = column_log_sums(x, columns, offsets, temperature)
            return temperature * (_log_sum_over(BATCH_AXES, used) - share)

        center = center_of(jnp.zeros(x.shape[0], share.dtype))
        for _ in range(iterations - 1):
            rows = row_log_sums(x, columns, center, temperature)
            center = center_of(_log_sum_over(axis, rows))
        return center

    batch, scalar = PartitionSpec(BATCH_AXES), PartitionSpec()
    return on_each_device(
        on_device,
        (batch, batch, PartitionSpec(None, axis), scalar, scalar),
        PartitionSpec(axis),
    )(features, real, prototypes, jnp.asarray(temperature, share.dtype), share)


def _log_sum_over(axes: str | Sequence[str] | None, sums: Float[Array, "..."]) -> Array:
    """Logarithm of the sum of what `sums` are logarithms of, over axes of the mesh, if any."""
    if axes is None or jax.sharding.get_abstract_mesh().empty:
        return sums
    peak = jax.lax.pmax(sums, axes)
    return peak + jnp.log(jax.lax.psum(jnp.exp(sums - peak), axes))
