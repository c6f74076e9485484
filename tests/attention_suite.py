"""What every attention backend has to show: values and gradients next to float64, and no mixing."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.kernels.attention import attention
from dinojax.kernels.rope import CoordinateDraws, RopeTables, rope_periods, rope_tables

TOLERANCE = {"float32": 3e-6, "bfloat16": 2e-2, "float16": 3e-3}
"""Of the largest number of an array."""


class Case(NamedTuple):
    """Shapes ``[groups, images, tokens, heads, head_dim]``; `tables` 0 is without RoPE."""

    tokens: int
    groups: int = 1
    images: int = 2
    heads: int = 2
    head_dim: int = 64
    tables: int = 1
    prefix: int = 1
    scale: float = 1.0


QUICK = [
    Case(1, tables=0, prefix=0),
    Case(37, groups=2, images=3, tables=2),
    Case(54, images=5, heads=4, prefix=5),
    Case(201, images=1, heads=1, head_dim=128, prefix=5, scale=30.0),
]
LENGTHS = np.random.default_rng(0).integers(2, 1100, 8).tolist()
SLOW = [
    *(Case(n, groups=2, images=1, tables=2, prefix=i % 6) for i, n in enumerate(LENGTHS)),
    *(Case(n, images=9, heads=1, head_dim=128) for n in (2, 7, 8, 9, 63, 64, 65)),
    Case(197, images=3, heads=3, tables=0, prefix=0),
    Case(201, groups=2, images=2, heads=4, tables=2, prefix=5),
    Case(261, images=1, heads=1, head_dim=128, prefix=5),
    Case(1029, images=1, scale=100.0),
    Case(1381, images=1, heads=1, head_dim=128, prefix=5),
]


class AttentionSuite:
    """Inherited by the test class of a backend, which says its name and what it cannot do."""

    backend: str
    dtypes: tuple[str, ...] = ("float32", "bfloat16")

    @pytest.mark.parametrize("case", QUICK, ids=str)
    def test_values_and_gradients(self, case: Case):
        for dtype in self.dtypes:
            check(self.backend, case, dtype)

    @pytest.mark.slow
    @pytest.mark.parametrize("case", SLOW, ids=str)
    def test_more_values_and_gradients(self, case: Case):
        for dtype in self.dtypes:
            check(self.backend, case, dtype)

    def test_images_and_heads_do_not_mix(self):
        q, k, v, _, rope = inputs(Case(37, images=4), self.dtypes[0])
        attend = jax.jit(lambda k, v: attention(q, k, v, rope, self.backend))
        before = attend(k, v)
        after = attend(k.at[0, 2, :, 1].add(1.7), v.at[0, 2, :, 1].multiply(-1e4))
        touched = np.zeros(before.shape, bool)
        touched[0, 2, :, 1] = True
        np.testing.assert_array_equal(before[~touched], after[~touched])
        assert (before != after)[touched].all()


def check(backend: str, case: Case, dtype: str):
    q, k, v, grad, rope = inputs(case, dtype)

    @jax.jit
    def run(q, k, v, grad):
        out, backwards = jax.vjp(lambda q, k, v: attention(q, k, v, rope, backend), q, k, v)
        return out, *backwards(grad)

    compare(run(q, k, v, grad), case, dtype)


def compare(found, case: Case, dtype: str):
    """The output and the gradients of `inputs` next to those of the formulas."""
    expected = oracle(*inputs(case, dtype))
    for name, ours, theirs in zip(("out", "q", "k", "v"), found, expected, strict=True):
        assert ours.dtype == dtype, name
        size = max(np.abs(theirs).max(), 1e-3)
        limit = TOLERANCE[dtype] * size * max(case.scale, 1) ** 0.5
        error = np.abs(np.float64(ours) - theirs).max()
        assert error <= limit, f"{dtype} {name}: {error:.2e} > {limit:.2e}"


def inputs(case: Case, dtype: str):
    """q, k, v, a gradient of the output, and tables; `scale` makes logits extreme."""
    keys = jax.random.split(jax.random.key(case.tokens), 5)
    shape = (case.groups, case.images, case.tokens, case.heads, case.head_dim)
    q, k, v, grad = (jax.random.normal(key, shape).astype(dtype) for key in keys[:4])
    q = (q * case.scale**0.5).astype(dtype)
    return q, (k * case.scale**0.5).astype(dtype), v, grad, tables(case, keys[4])


def tables(case: Case, key) -> RopeTables | None:
    """Of a line of patches; those of several groups differ."""
    if not case.tables:
        return None
    patches = case.tokens - min(case.prefix, case.tokens - 1)
    draws = CoordinateDraws(shift=jax.random.uniform(key, (case.tables, 2)))
    return rope_tables(
        (1, patches),
        rope_periods(case.head_dim, dtype=jnp.float32),
        prefix_tokens=case.tokens - patches,
        draws=draws if case.tables > 1 else None,
    )


def oracle(q, k, v, grad, rope: RopeTables | None) -> tuple[np.ndarray, ...]:
    """Output and gradients by q, k and v in float64; formulas of the softmax's derivative."""
    q, k, v, grad = (np.asarray(x.astype(jnp.float32), np.float64) for x in (q, k, v, grad))
    half, scale = q.shape[-1] // 2, q.shape[-1] ** -0.5
    sin, cos = (0.0, 1.0)
    if rope is not None:
        sin, cos = (np.asarray(t, np.float64)[:, None, :, None] for t in rope)

    def turn(x):
        return np.concatenate([-x[..., half:], x[..., :half]], axis=-1)

    q, k = (x * cos + turn(x) * sin for x in (q, k))
    logits = np.einsum("gbnhd,gbmhd->gbhnm", q, k) * scale
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = np.einsum("gbhnm,gbmhd->gbnhd", weights, v)
    by_weights = np.einsum("gbnhd,gbmhd->gbhnm", grad, v)
    mean = (weights * by_weights).sum(axis=-1, keepdims=True)
    by_logits = weights * (by_weights - mean) * scale
    by_q = np.einsum("gbhnm,gbmhd->gbnhd", by_logits, k)
    by_k = np.einsum("gbhnm,gbnhd->gbmhd", by_logits, q)
    by_v = np.einsum("gbhnm,gbnhd->gbmhd", weights, grad)
    return out, *(x * cos - turn(x * sin) for x in (by_q, by_k)), by_v
