"""Attention against NumPy in float64, and its symmetries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.kernels.attention import BLOCK, LONG, attention, query_blocks


def qkv(dtype=jnp.float32, tokens=9):
    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(jax.random.normal(k, (2, tokens, 3, 8)).astype(dtype) for k in keys)


def oracle(q, k, v) -> np.ndarray:
    """One image, head and query at a time."""
    q, k, v = (np.asarray(x.astype(jnp.float32), np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b, n, h in np.ndindex(q.shape[:3]):
        logits = k[b, :, h] @ q[b, n, h] / np.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max())
        out[b, n, h] = weights @ v[b, :, h] / weights.sum()
    return out


@pytest.mark.parametrize(("dtype", "atol"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
def test_equals_numpy(dtype, atol):
    args = qkv(dtype)
    out = attention(*args)
    assert out.dtype == dtype
    np.testing.assert_allclose(out.astype(jnp.float32), oracle(*args), rtol=0, atol=atol)


def test_is_invariant_to_the_order_of_keys():
    q, k, v = qkv()
    order = np.random.default_rng(0).permutation(k.shape[1])
    out = attention(q, k[:, order], v[:, order])
    np.testing.assert_allclose(out, attention(q, k, v), atol=1e-6)


def test_is_equivariant_to_the_order_of_queries():
    q, k, v = qkv()
    order = np.random.default_rng(0).permutation(q.shape[1])
    np.testing.assert_allclose(
        attention(q[:, order], k, v), attention(q, k, v)[:, order], atol=1e-6
    )


def test_images_and_heads_do_not_mix():
    q, k, v = qkv()
    out = attention(q, k, v)
    changed = attention(q, k.at[0, :, 1].add(1.7), v.at[0, :, 1].multiply(-2.0))
    touched = np.zeros(out.shape, bool)
    touched[0, :, 1] = True
    np.testing.assert_array_equal(out[~touched], changed[~touched])
    assert (out != changed)[touched].all()


def test_large_logits_stay_finite():
    q, k, v = qkv()
    out = attention(1e3 * q, 1e3 * k, v)
    np.testing.assert_allclose(out, oracle(1e3 * q, 1e3 * k, v), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_blocks_of_queries_change_nothing(monkeypatch, dtype):
    """Values and gradients, of a number of tokens that blocks do not divide."""
    args, weight = qkv(dtype, tokens=21), jnp.asarray(qkv(tokens=21)[0])

    def value_and_gradients():
        def total(*args):
            return (attention(*args).astype(jnp.float32) * weight).sum()

        return attention(*args), jax.grad(total, (0, 1, 2))(*args)

    whole, expected = value_and_gradients()
    monkeypatch.setattr("dinojax.kernels.attention.LONG", 20)
    monkeypatch.setattr("dinojax.kernels.attention.BLOCK", 6)
    blocks, found = value_and_gradients()
    tolerance = 2e-6 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(*(np.float32(x) for x in (blocks, whole)), atol=tolerance)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        ours, theirs = np.float32(ours), np.float32(theirs)
        np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max())


def test_blocks_hold_all_tokens():
    assert query_blocks(LONG) == (1, LONG)
    for tokens in (LONG + 1, 2309, 5189):
        count, size = query_blocks(tokens)
        assert size % 8 == 0 and size <= BLOCK
        assert tokens <= count * size < tokens + 8 * count


def test_long_sequences_hold_no_logits_of_all_queries():
    """In the gradient's program, forwards and backwards."""
    tokens = LONG + 1
    shapes = [jax.ShapeDtypeStruct((1, tokens, 1, 8), jnp.float32)] * 3
    program = jax.make_jaxpr(jax.grad(lambda *a: attention(*a).sum(), (0, 1, 2)))(*shapes)
    assert f"[1,1,{tokens},{tokens}]" not in str(program)
    size = query_blocks(tokens)[1]
    assert f"[1,1,{size},{tokens}]" in str(program)
