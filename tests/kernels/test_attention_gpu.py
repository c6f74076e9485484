"""The Hopper kernels in Mosaic's interpreter, against NumPy in float64, and what becomes of them.

The interpreter runs the kernels' copies, barriers, masks and loops; products and layouts are the
compiler's. With CUDA's compiler (``pip install "jax[cuda13]"``, no GPU) slow tests compile them.
"""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gpu_targets import ptx_of_attention

from dinojax.kernels.attention_gpu import flash, supports
from dinojax.kernels.rope import RopeTables, apply_rope
from dinojax.kernels.tiles_interpreted import Interpreted

PREFIX = 5
F16, BF16 = jnp.float16, jnp.bfloat16
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.5e-2}
"""Of the largest number: weights, results and what products take are rounded to the dtype."""


class Case(NamedTuple):
    q: jax.Array
    k: jax.Array
    v: jax.Array
    rope: RopeTables | None
    d_out: jax.Array


def case(groups, images, tokens, heads, width, dtype, *, tables=None) -> Case:
    keys = jax.random.split(jax.random.key(tokens + width), 5)
    shape = (groups, images, tokens, heads, width)
    q, k, v, d_out = (jax.random.normal(key, shape, dtype) for key in keys[:4])
    if tables == 0:
        return Case(q, k, v, None, d_out)
    angles = 3 * jax.random.normal(keys[4], (tables or groups, tokens, width // 2))
    angles = jnp.tile(angles.at[:, :PREFIX].set(0.0), 2)
    return Case(q, k, v, RopeTables(jnp.sin(angles), jnp.cos(angles)), d_out)


def flash_and_gradients(given: Case):
    @jax.jit
    def run(q, k, v, rope, d_out):
        out, gradients = jax.vjp(lambda *x: flash(*x, rope, interpret=True), q, k, v)
        return out, *gradients(d_out)

    return run(*given)


def oracle(given: Case) -> tuple[np.ndarray, ...]:
    """The result and the gradients of q, k and v by the formulas, one head at a time."""

    def wide(x):
        return np.asarray(jnp.asarray(x, jnp.float32), np.float64)

    scale, half = given.q.shape[-1] ** -0.5, given.q.shape[-1] // 2

    def turn(x, sin, cos):
        return x * cos + np.concatenate([-x[:, half:], x[:, :half]], -1) * sin

    results = [np.zeros(given.q.shape) for _ in range(4)]
    for g, b, h in np.ndindex(*given.q.shape[:2], given.q.shape[3]):
        at = (g, b, slice(None), h)
        q, k, v, d_out = (wide(x[at]) for x in (given.q, given.k, given.v, given.d_out))
        if given.rope is not None:
            sin, cos = (wide(x[min(g, len(x) - 1)]) for x in given.rope)
            # Rounded to the dtype, as `apply_rope` rounds.
            q, k = (wide(jnp.asarray(turn(x, sin, cos), given.q.dtype)) for x in (q, k))
        logits = scale * q @ k.T
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        slopes = d_out @ v.T
        slopes = scale * weights * (slopes - (weights * slopes).sum(-1, keepdims=True))
        d_q, d_k = slopes @ k, slopes.T @ q
        if given.rope is not None:
            d_q, d_k = turn(d_q, -sin, cos), turn(d_k, -sin, cos)
        for result, x in zip(results, (weights @ v, d_q, d_k, weights.T @ d_out), strict=True):
            result[at] = x
    return tuple(results)


def assert_equals_oracle(given: Case):
    for ours, theirs in zip(flash_and_gradients(given), oracle(given), strict=True):
        assert ours.dtype == given.q.dtype
        allowed = TOLERANCE[given.q.dtype.name] * max(np.abs(theirs).max(), 1e-2)
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=0, atol=allowed)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((2, 1, 37, 2, 64, F16), id="one tile, a table per group"),
        pytest.param((1, 1, 65, 1, 64, BF16), id="two warpgroups", marks=pytest.mark.slow),
    ],
)
def test_equals_float64(shape):
    assert_equals_oracle(case(*shape))


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("tokens", [1, 54, 64, 128, 130, 201, 261])
def test_equals_float64_at_any_length(tokens, width):
    dtype = F16 if width == 64 else BF16
    assert_equals_oracle(case(1, 1, tokens, 1, width, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("tables", [0, 1])
def test_equals_float64_without_a_table_per_group(tables):
    assert_equals_oracle(case(2, 2, 37, 1, 64, F16, tables=tables))


@pytest.mark.parametrize("sign", [pytest.param(1, marks=pytest.mark.slow), -1])
def test_extreme_logits(sign):
    """Far from 0, where padded keys with logit 0 would win, and where one key wins over all."""
    given = case(1, 1, 9, 1, 64, BF16, tables=0)
    q = jnp.abs(given.q) * 20 + 20
    assert_equals_oracle(given._replace(q=q, k=sign * (jnp.abs(given.k) * 20 + 20)))


@pytest.mark.slow
def test_tables_of_16_bits_are_applied_before():
    given = case(1, 1, 9, 1, 64, BF16)
    rope = RopeTables(*(x.astype(BF16) for x in given.rope))
    turned = given._replace(q=apply_rope(given.q, rope), k=apply_rope(given.k, rope), rope=None)
    np.testing.assert_array_equal(
        flash(given.q, given.k, given.v, rope, interpret=True),
        flash(*turned[:4], interpret=True),
    )


@pytest.mark.slow
def test_warpgroups_do_not_race(monkeypatch):
    from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call

    options = Interpreted().kernel_options()
    watched = options["interpret"].__class__(**{**vars(options["interpret"]), "detect_races": True})
    monkeypatch.setattr(Interpreted, "kernel_options", lambda _: {"interpret": watched})
    flash_and_gradients(case(1, 1, 261, 1, 64, F16))
    assert not interpret_pallas_call.get_races().races_found


def program(tokens, width):
    """Attention and its gradients, and arguments to lower it with."""
    q = jax.ShapeDtypeStruct((2, 3, tokens, 2, width), BF16)
    table = jax.ShapeDtypeStruct((2, tokens, width), jnp.float32)

    def run(q, k, v, rope, d_out):
        out, gradients = jax.vjp(lambda *x: flash(*x, rope), q, k, v)
        return out, gradients(d_out)

    return jax.jit(run), (q, q, q, RopeTables(table, table), q)


def test_lowers_for_cuda_to_three_kernels_without_copies():
    run, args = program(201, 64)
    text = run.trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    assert len(re.findall(r"custom_call @mosaic_gpu", text)) == 3
    assert not re.findall(r"stablehlo\.(?:pad|transpose|concatenate|slice).*bf16", text)


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("tokens", [1, 37, 201, 2309])
def test_compiles_for_hopper(tokens, width):
    text = ptx_of_attention("flash", "9.0", (2, 3, tokens, 2, width), "bfloat16", tables=2)
    assert ".target sm_90a" in text
    assert text.count(".entry") == 3


@pytest.mark.parametrize(
    ("shape", "dtype", "capability", "reason"),
    [
        ((2, 3, 201, 6, 64), BF16, "9.0", None),
        ((2, 3, 1, 6, 128), F16, "9.0", None),
        ((2, 3, 201, 6, 64), BF16, "8.0", "compute capability 8.0 is not 9.x (Hopper)"),
        ((2, 3, 201, 6, 64), BF16, "10.0", "compute capability 10.0 is not 9.x (Hopper)"),
        ((2, 3, 201, 6, 96), BF16, "9.0", "head width 96 is none of (64, 128)"),
        ((2, 3, 201, 6, 64), jnp.float32, "9.0", "float32 is neither bfloat16 nor float16"),
        ((2, 40000, 37, 6, 64), BF16, "9.0", "80000 images are more than 65535"),
    ],
)
def test_supports(shape, dtype, capability, reason):
    assert supports(shape, dtype, capability) == reason
