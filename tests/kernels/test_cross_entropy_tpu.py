"""The kernel, interpreted, over many tiles of everything, against whole logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.kernels import cross_entropy_tpu
from dinojax.losses.centering import softmax_center
from dinojax.losses.dino import crop_pairs
from dinojax.losses.dino import cross_entropy as plain_cross_entropy

F, OWN, THEIRS = 6, 0.1, 0.06


def given(students: int, teachers: int, rows: int, columns: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = {
        "student": (students, rows, F),
        "prototypes": (F, columns),
        "teacher": (teachers, rows, F),
        "columns": (F, columns),
    }
    # Few bits, so that bf16 holds them, too.
    arrays = {name: rng.integers(-8, 9, shape) / 8 for name, shape in normal.items()}
    weights = rng.uniform(0.1, 1, rows) * (rng.random(rows) < 0.8)
    each = np.linspace(1, 0, students) if students > 1 else np.ones(1)
    wide = {"center": rng.normal(size=columns), "weights": weights, "crop_weights": each}
    return {**arrays, **wide}


def plain(pairs, student, prototypes, teacher, columns, center, weights, crop_weights):
    """Sums of crops, and gradients by student features and prototypes."""

    def loss(student, prototypes):
        probs = softmax_center(teacher @ columns, center, THEIRS)
        targets = jnp.einsum("st,trk->srk", pairs, probs)
        costs = (weights * plain_cross_entropy(student @ prototypes, targets, OWN)).sum(axis=1)
        return crop_weights @ costs, costs

    gradients, costs = jax.grad(loss, argnums=(0, 1), has_aux=True)(student, prototypes)
    return costs, *gradients


def fused(pairs, student, prototypes, teacher, columns, center, weights, crop_weights):
    def sums(features, columns, center, temperature):
        logits = jnp.asarray(features, center.dtype) @ jnp.asarray(columns, center.dtype)
        return jax.nn.logsumexp((logits - center) / temperature, axis=-1)

    return cross_entropy_tpu.cross_entropy(
        student,
        prototypes,
        sums(student, prototypes, jnp.zeros_like(center), OWN),
        teacher,
        columns,
        center,
        THEIRS,
        sums(teacher, columns, center, THEIRS),
        weights,
        crop_weights,
        pairs=pairs,
        temperature=OWN,
    )


def both(pairs, arrays, dtype):
    """What the kernel makes of features and prototypes in `dtype`, and float64 of all."""
    narrow = {
        name: jnp.asarray(x, dtype if x.ndim > 1 else np.float32) for name, x in arrays.items()
    }
    found = jax.jit(lambda given: fused(pairs, **given))(narrow)
    with jax.enable_x64(True):
        return found, jax.jit(lambda given: plain(pairs, **given))(arrays)


@pytest.mark.parametrize(
    ("students", "teachers", "ignored", "resident"),
    [(3, 2, True, 0), (1, 1, False, 2**24)],
    ids=["a tile at a time", "all tiles at a time"],
)
def test_many_tiles(monkeypatch, students, teachers, ignored, resident):
    """Three tiles of rows, five of prototypes, none of them full."""
    monkeypatch.setattr(cross_entropy_tpu, "ROWS", 32 * students)
    monkeypatch.setattr(cross_entropy_tpu, "COLUMNS", 128)
    monkeypatch.setattr(cross_entropy_tpu, "RESIDENT_BYTES", resident)
    pairs = crop_pairs(students, teachers, ignore_diagonal=ignored)
    found, expected = both(pairs, given(students, teachers, 70, 600), np.float32)
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, exact, rtol=0, atol=5e-6 * np.abs(exact).max())


def test_of_bf16_only_the_slopes_are_rounded():
    pairs = crop_pairs(1, 2, ignore_diagonal=False)
    found, expected = both(pairs, given(1, 2, 20, 100), jnp.bfloat16)
    for ours, exact, limit in zip(found, expected, (1e-6, 2**-8, 2**-8), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, exact, rtol=0, atol=limit * np.abs(exact).max())
