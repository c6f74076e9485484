"""The symmetries of attention, and its queries in blocks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.kernels.attention_reference import BLOCK, LONG, attend, query_blocks


def qkv(dtype=jnp.float32, tokens=9) -> Any:
    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(jax.random.normal(k, (1, 2, tokens, 3, 8)).astype(dtype) for k in keys)


def test_is_invariant_to_the_order_of_keys():
    q, k, v = qkv()
    order = np.random.default_rng(0).permutation(k.shape[2])
    out = attend(q, k[:, :, order], v[:, :, order], None)
    np.testing.assert_allclose(out, attend(q, k, v, None), atol=1e-6)


def test_is_equivariant_to_the_order_of_queries():
    q, k, v = qkv()
    order = np.random.default_rng(0).permutation(q.shape[2])
    np.testing.assert_allclose(
        attend(q[:, :, order], k, v, None), attend(q, k, v, None)[:, :, order], atol=1e-6
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_blocks_of_queries_change_nothing(monkeypatch, dtype):
    """Values and gradients, of a number of tokens that blocks do not divide."""
    args, weight = qkv(dtype, tokens=21), jnp.asarray(qkv(tokens=21)[0])

    def value_and_gradients():
        def total(*args):
            return (attend(*args, None).astype(jnp.float32) * weight).sum()

        return attend(*args, None), jax.grad(total, (0, 1, 2))(*args)

    whole, expected = value_and_gradients()
    monkeypatch.setattr("dinojax.kernels.attention_reference.LONG", 20)
    monkeypatch.setattr("dinojax.kernels.attention_reference.BLOCK", 6)
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
    shapes = [jax.ShapeDtypeStruct((1, 1, tokens, 1, 8), jnp.float32)] * 3
    program = jax.make_jaxpr(jax.grad(lambda *a: attend(*a, None).sum(), (0, 1, 2)))(*shapes)
    assert f"[1,1,{tokens},{tokens}]" not in str(program)
    size = query_blocks(tokens)[1]
    assert f"[1,1,{size},{tokens}]" in str(program)
