"""The entry point, and every backend through it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_suite import AttentionSuite, Case, inputs

from dinojax.kernels.attention import attention, choose
from dinojax.mesh import make_mesh

SHAPE = (1, 2, 37, 2, 64)


class TestReference(AttentionSuite):
    backend = "reference"


class TestTpu(AttentionSuite):
    """Interpreted on other devices."""

    backend = "tpu"


@pytest.mark.slow
class TestFlash(AttentionSuite):
    """Interpreted on other devices, which takes long: quick cases are in `test_attention_gpu`."""

    backend = "flash"
    dtypes = ("bfloat16",)


@pytest.mark.slow
@pytest.mark.skipif(
    jax.default_backend() == "gpu" and jax.__version_info__ < (0, 12), reason="needs jax 0.12"
)
class TestFlashMma(AttentionSuite):
    """Interpreted on other devices: `test_attention_ampere` also runs what is compiled."""

    backend = "flash_mma"
    dtypes = ("bfloat16",)


if jax.default_backend() == "gpu":

    class TestCudnn(AttentionSuite):
        backend = "cudnn"
        dtypes = ("bfloat16",)


def test_unknown_backends_are_refused():
    q, k, v, _, rope = inputs(Case(3), "float32")
    with pytest.raises(ValueError, match=r"attention_backend='splash' is unknown; .*'reference'"):
        attention(q, k, v, rope, "splash")


@pytest.mark.parametrize(
    ("case", "dtype", "reason"),
    [
        (Case(9, head_dim=32), "float32", "head dim 32"),
        (Case(9), "float16", "float16"),
        (Case(20_000, images=1, heads=1), "bfloat16", "20000 tokens take .* of 48 MiB"),
    ],
    ids=str,
)
def test_what_the_tpu_kernel_cannot_do_is_said(case, dtype, reason):
    q = jax.ShapeDtypeStruct((1, case.images, case.tokens, case.heads, case.head_dim), dtype)
    with pytest.raises(ValueError, match=rf"'tpu' cannot do this: .*{reason}"):
        jax.eval_shape(lambda q: attention(q, q, q, None, "tpu"), q)


def test_rounding_tables_are_left_to_the_reference(monkeypatch):
    monkeypatch.setattr("dinojax.kernels.attention.platform", lambda: "tpu")
    assert choose(SHAPE, jnp.bfloat16, jnp.float32) == "tpu"
    assert choose(SHAPE, jnp.bfloat16, jnp.bfloat16) == "reference"


def test_a_cpu_takes_the_reference():
    assert choose(SHAPE, jnp.float32, None) == "reference"


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        (Case(37, groups=4, images=1, heads=2, tables=4), (2, 2, 2)),  # groups, heads
        (Case(37, groups=1, images=4, heads=1, tables=1), (4, 1, 2)),  # images; one head is whole
    ],
    ids=str,
)
def test_a_mesh_changes_nothing(case, sizes):
    """Values and gradients of the Pallas kernel on 8 devices, without a gather."""
    q, k, v, grad, rope = inputs(case, "float32")

    @jax.jit
    def run(q, k, v, grad):
        out, backwards = jax.vjp(lambda q, k, v: attention(q, k, v, rope, "tpu"), q, k, v)
        return out, *backwards(grad)

    alone = run(q, k, v, grad)
    jax.clear_caches()
    with jax.set_mesh(make_mesh(*sizes)):
        for ours, theirs in zip(run(q, k, v, grad), alone, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)
