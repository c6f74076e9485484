"""The cross-entropies of `dino` and `ibot` without all logits: they exist for some rows at a time.

Logits are products of narrow bottleneck features and many prototypes, so those of a chunk of rows
are made where they are needed and then dropped: fused linear cross-entropy (Liger Kernel,
arXiv:2410.10989, section 3.2), here with soft targets that are such products themselves. The
gradient of a chunk is taken in the forward pass, while its logits exist; the backward pass scales
what was kept, arrays of the size of the features and of the prototypes. No student logit is
computed twice.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from dinojax.losses.centering import softmax_center
from dinojax.losses.chunks import per_shard, to_chunks
from dinojax.losses.dino import crop_pairs, cross_entropy
from dinojax.mesh import gather
from dinojax.typing import Array, Float


class Rows(NamedTuple):
    """Prototype logits ``features @ prototypes``, not computed yet."""

    features: Float[Array, "*R F"]
    prototypes: Float[Array, "F K"]


class TeacherRows(NamedTuple):
    """Targets ``softmax((features @ prototypes - center) / temperature)``, not computed yet.

    Their prototypes are in the dtype of the features, and on every device but for the tensor axis.
    """

    features: Float[Array, "*R F"]
    prototypes: Float[Array, "F K"]
    center: Float[Array, " K"]
    temperature: float | Float[Array, ""]


def columns_of(prototypes: Float[Array, "F K"], features: Float[Array, "..."]) -> Array:
    """As products with these features take them: gathered, but for the tensor axis."""
    return gather(prototypes.astype(features.dtype), tensor_axis=-1, pinned=True)


def chunked_dino_loss(
    student: Rows,
    teacher: TeacherRows,
    weights: Float[Array, " s"],
    *,
    temperature: float = 0.1,
    ignore_diagonal: bool = False,
    chunk: int | None = None,
) -> tuple[Float[Array, ""], Float[Array, " s"]]:
    """`dino_loss` of features ``[s, B, F]`` and ``[t, B, F]``, gradients are the student's.

    `chunk`: how many rows of logits, of student and teacher together, each device holds at a time,
    but at least those of one image. None: all.
    """
    (students, images, _), teachers = student.features.shape, teacher.features.shape[0]
    pairs = crop_pairs(students, teachers, ignore_diagonal=ignore_diagonal)
    ours, theirs = (per_shard("V (Z b) F -> Z b V F", x.features) for x in (student, teacher))
    dtype = teacher.center.dtype
    loss, costs = _cross_entropy(
        temperature,
        None if chunk is None else chunk // (students + teachers),
        student._replace(features=ours),
        teacher._replace(features=theirs),
        jnp.asarray(pairs, dtype),
        jnp.full(ours.shape[:2], 1 / images, dtype),
        weights / pairs.sum(),
    )
    return loss, costs / pairs.sum(axis=1)


def chunked_ibot_loss(
    student: Rows,
    teacher: TeacherRows,
    weights: Float[Array, "G M"],
    *,
    images: int,
    temperature: float = 0.1,
    chunk: int | None = None,
) -> Float[Array, ""]:
    """`ibot_loss` of features ``[G, M, F]``, without a gradient to the teacher or the weights."""
    ours, theirs = (per_shard("(Z g) M F -> Z (g M) 1 F", x.features) for x in (student, teacher))
    loss, _ = _cross_entropy(
        temperature,
        None if chunk is None else chunk // 2,
        student._replace(features=ours),
        teacher._replace(features=theirs),
        jnp.ones((1, 1), teacher.center.dtype),
        per_shard("(Z g) M -> Z (g M)", weights) / images,
        jnp.ones(1, teacher.center.dtype),
    )
    return loss


def _costs(
    temperature: float,
    size: int | None,
    student: Rows,
    teacher: TeacherRows,
    pairs: Float[Array, "s t"],
    weights: Float[Array, "Z R"],
    crop_weights: Float[Array, " s"],
) -> tuple[Float[Array, ""], Float[Array, " s"]]:
    """Cross-entropies with the sum of the teachers, summed with both weights and with `weights`.

    Features are ``[Z, R, s, F]`` and ``[Z, R, t, F]``, see `chunks`. Only the first sum, over rows
    and student crops, has a gradient; the second is that of each student crop.
    """
    return _with_gradients(temperature, size, student, teacher, pairs, weights, crop_weights)[0]


def _with_gradients(
    temperature, size, student, teacher, pairs, weights, crop_weights
) -> tuple[tuple[Float[Array, ""], Float[Array, " s"]], Rows]:
    prototypes = columns_of(student.prototypes, student.features)

    def chunk(carry, given):
        costs, by_prototypes = carry
        ours, theirs, weight = given
        probs = softmax_center(theirs @ teacher.prototypes, teacher.center, teacher.temperature)
        targets = jnp.einsum("st,zrtk->zrsk", pairs, probs)

        def loss(logits: Float[Array, "Z r s K"]) -> tuple[Float[Array, ""], Float[Array, "Z s"]]:
            parts = (weight[..., None] * cross_entropy(logits, targets, temperature)).sum(axis=1)
            return (crop_weights * parts).sum(), parts

        slope, parts = jax.grad(loss, has_aux=True)(ours @ prototypes)
        # As in `kernels.linear`: summed in the master dtype, whatever the factors are.
        outer = jnp.einsum("zrsf,zrsk->zfk", ours, slope, preferred_element_type=master)
        return (costs + parts, by_prototypes + outer), slope @ prototypes.T

    master, shards = student.prototypes.dtype, student.features.shape[0]
    start = (
        jnp.zeros((shards, len(crop_weights)), weights.dtype),
        jnp.zeros((shards, *student.prototypes.shape), master),
    )
    parts = to_chunks((student.features, teacher.features, weights), size)
    (costs, by_prototypes), by_features = jax.lax.scan(chunk, start, parts)
    by_features = rearrange(by_features, "n Z r s F -> Z (n r) s F")
    rows = student.features.shape[1]
    costs = costs.sum(axis=0)
    gradients = Rows(by_features[:, :rows], by_prototypes.sum(axis=0))
    return ((crop_weights * costs).sum(), costs), gradients


def _backward(temperature, size, gradients: Rows, cotangents: tuple[Array, Array]):
    del temperature, size
    return scale_gradients(gradients, cotangents[0]), None, None, None, None


def scale_gradients(gradients: Rows, cotangent: Float[Array, ""]) -> Rows:
    """Of a loss, taken in its forward pass, in the dtypes of what they are by."""
    return jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), gradients)


_cross_entropy = jax.custom_vjp(_costs, nondiff_argnums=(0, 1))
_cross_entropy.defvjp(_with_gradients, _backward)
