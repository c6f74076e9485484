"""Chunked and fused cross-entropies and Sinkhorn-Knopp against the plain ones on the same logits.

The kernels of the fused ones are interpreted.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import collectives
from oracles import compile_on_eight

from dinojax import mesh as meshes
from dinojax.losses.centering import softmax_center
from dinojax.losses.chunked import Rows, TeacherRows, chunked_dino_loss, chunked_ibot_loss
from dinojax.losses.chunked_sinkhorn import sinkhorn_center
from dinojax.losses.chunks import per_shard, to_chunks
from dinojax.losses.dino import dino_loss
from dinojax.losses.fused import fused_dino_loss, fused_ibot_loss, fused_sinkhorn_center
from dinojax.losses.ibot import ibot_loss
from dinojax.losses.sinkhorn import sinkhorn_knopp

F, K, TEMPERATURE = 6, 40, 0.05
CHUNKS = [None, 1, 13, 1000, "fused"]
"""All rows, one at a time, a number that divides nothing, more than there are; no rows at all."""
LIMITS = {"float64": 1e-12, "float32": 2e-6}
WIDTHS = [
    (chunk, dtype) for chunk in CHUNKS for dtype in LIMITS if (chunk, dtype) != ("fused", "float32")
]
"""Kernels in float32 are tested with more tiles, in tests/kernels."""


def random(*shape: int, seed: int = 0, unit: bool = True, dtype: str = "float64") -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True) if unit else x).astype(dtype)


def dino(
    student, prototypes, teacher, columns, center, chunk: Any = "plain", ignored: bool = False
):
    options = {"temperature": 0.2, "ignore_diagonal": ignored}
    weights = jnp.asarray(np.linspace(1, 0, len(student)), center.dtype)
    if chunk == "plain":
        probs = softmax_center(teacher @ columns, center, TEMPERATURE)
        return dino_loss(student @ prototypes, probs, weights, **options)
    rows = TeacherRows(teacher, columns, center, TEMPERATURE)
    if chunk == "fused":
        return fused_dino_loss(Rows(student, prototypes), rows, weights, **options)
    return chunked_dino_loss(Rows(student, prototypes), rows, weights, chunk=chunk, **options)


def ibot(student, prototypes, teacher, columns, center, chunk: Any = "plain"):
    weights = jnp.asarray(np.random.default_rng(5).uniform(0.1, 1, student.shape[:2]), center.dtype)
    options = {"images": 7, "temperature": 0.2}
    if chunk == "plain":
        probs = softmax_center(teacher @ columns, center, TEMPERATURE)
        return ibot_loss(student @ prototypes, probs, weights, **options), ()
    rows = TeacherRows(teacher, columns, center, TEMPERATURE)
    if chunk == "fused":
        return fused_ibot_loss(Rows(student, prototypes), rows, weights, **options), ()
    return chunked_ibot_loss(Rows(student, prototypes), rows, weights, chunk=chunk, **options), ()


def center_by(chunk: Any):
    if chunk == "fused":
        return fused_sinkhorn_center
    return partial(sinkhorn_center, chunk=chunk)


CASES = {
    "dino": (dino, (5, 6, F), (2, 6, F)),
    "dino, no diagonal": (partial(dino, ignored=True), (5, 6, F), (2, 6, F)),
    "ibot": (ibot, (3, 7, F), (3, 7, F)),
}


def arguments(case: str, dtype: str) -> tuple[Any, tuple[np.ndarray, ...]]:
    loss, ours, theirs = CASES[case]
    return loss, (
        random(*ours, dtype=dtype),
        random(F, K, seed=1, unit=False, dtype=dtype),
        random(*theirs, seed=2, dtype=dtype),
        random(F, K, seed=3, unit=False, dtype=dtype),
        random(K, seed=4, dtype=dtype),
    )


def scaled(loss, **options):
    """Value, crop losses, and gradients of three times the loss, for which the backward pass scales
    something; of crop losses there are none."""

    def three_times(*given):
        value, crop_losses = loss(*given, **options)
        return 3 * value + sum(crop_losses), crop_losses

    return jax.jit(jax.value_and_grad(three_times, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize(("chunk", "dtype"), WIDTHS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, chunk, dtype):
    loss, given = arguments(case, dtype)
    with jax.enable_x64(dtype == "float64"):
        found = scaled(loss, chunk=chunk)(*given)
        expected = scaled(loss)(*given)
    for ours, plain in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == plain.dtype == dtype
        np.testing.assert_allclose(ours, plain, rtol=0, atol=LIMITS[dtype] * np.abs(plain).max())


@pytest.mark.parametrize(
    ("case", "chunk"), [*((case, 13) for case in CASES), ("dino, no diagonal", "fused")]
)
def test_prototype_gradients_of_bf16_rows_are_summed_in_float32(case, chunk):
    loss, given = arguments(case, "float32")
    features, prototypes, *rest = given
    rounded = jnp.asarray(features, jnp.bfloat16)
    _, (by_features, by_prototypes) = scaled(loss, chunk=chunk)(rounded, prototypes, *rest)
    assert by_features.dtype == jnp.bfloat16 and by_prototypes.dtype == jnp.float32
    _, (_, expected) = scaled(loss)(rounded, prototypes, *rest)
    # Their sum is exact; the slopes at the logits were rounded to bf16, as in `kernels.linear`.
    np.testing.assert_allclose(by_prototypes, expected, rtol=0, atol=0.02 * np.abs(expected).max())


def test_teacher_has_no_gradient():
    loss, given = arguments("ibot", "float32")
    gradient, _ = jax.jit(jax.grad(partial(loss, chunk=13), argnums=2, has_aux=True))(*given)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(("chunk", "dtype"), WIDTHS)
def test_one_center_holds_all_of_sinkhorn_knopp(chunk, dtype):
    with jax.enable_x64(dtype == "float64"):
        features = jnp.asarray(random(1, 50, F, dtype=dtype))
        columns = jnp.asarray(random(F, K, seed=1, dtype=dtype))
        center = jax.jit(center_by(chunk))(features, columns, TEMPERATURE)
        found = softmax_center(features @ columns, center, TEMPERATURE)
        expected = jax.jit(sinkhorn_knopp)(features @ columns, TEMPERATURE)
    assert np.asarray(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, rtol=0, atol=10 * LIMITS[dtype])


@pytest.mark.parametrize(("reach", "chunk"), [(30.0, 13), (750.0, 13), (750.0, "fused")])
def test_far_logits_in_float32(reach, chunk):
    """Hundreds of temperatures apart, some prototypes below all others for every row."""
    with jax.enable_x64(True):
        features, columns = random(1, 50, F), random(F, K, seed=1) * reach * TEMPERATURE
        features = np.round(4 * features) / 4  # products that float32 has no need to round
        columns = columns.astype(np.float32).astype(np.float64)
        expected = sinkhorn_knopp(jnp.asarray(features @ columns), TEMPERATURE)
    narrow = [jnp.asarray(x, jnp.float32) for x in (features, columns)]
    center = jax.jit(center_by(chunk))(*narrow, TEMPERATURE)
    found = softmax_center(narrow[0] @ narrow[1], center, TEMPERATURE)
    assert np.isfinite(found).all()
    rounding = np.spacing(np.float32(reach * TEMPERATURE)) / TEMPERATURE
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * rounding)


def test_chunks_are_nearly_equal_and_filled_with_zeros():
    x = jnp.arange(1.0, 12.0)[None]
    chunks = to_chunks(x, 4)
    np.testing.assert_array_equal(chunks[:, 0], [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 0]])
    assert to_chunks(x, None).shape == (1, 1, 11)
    assert to_chunks(x, 0).shape == (11, 1, 1)
    assert to_chunks(x, 5).shape == (3, 1, 4), "not two of 5 and one of 1"


def test_eight_devices():
    """Rows stay where they are; per iteration one sum of the size of the prototypes travels."""
    features = random(16, 7, F, dtype="float32")
    columns = jnp.asarray(random(F, K, seed=1, dtype="float32"))
    mesh = meshes.make_mesh(data=2, fsdp=4)

    def loss(features):
        rows = per_shard("(Z g) M F -> Z (g M) F", features)
        center = sinkhorn_center(rows, columns, TEMPERATURE, chunk=5)
        teacher = TeacherRows(features, columns, center, TEMPERATURE)
        ones = jnp.ones(features.shape[:2])
        return jax.grad(
            lambda p: chunked_ibot_loss(Rows(features, p), teacher, ones, images=7, chunk=5)
        )(columns)

    expected = jax.jit(loss)(features)
    with jax.set_mesh(mesh):
        found, program = compile_on_eight(loss, features, axis=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    moved = collectives(program)
    assert {kind for kind, _ in moved} == {"all-reduce"}
    assert {shape for _, shape in moved} <= {(), (K,), (F, K)}
    bodies = [part for part in program.split("\n\n") if "all-reduce" in part]
    assert len(bodies) == 1 and bodies[0].lstrip().startswith("ENTRY"), "a sum inside a loop"
