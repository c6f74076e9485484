"""The entry point, and every backend through it."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_suite import AttentionSuite, Case, inputs
from collectives import collectives
from jax.sharding import NamedSharding, PartitionSpec

from dinojax.kernels.attention import BACKENDS, attention, choose
from dinojax.mesh import BATCH_AXES, make_mesh

SHAPE = (1, 2, 37, 2, 64)


def runs_here(backend: str) -> pytest.MarkDecorator:
    """Skips what is for other GPUs than this one; on a CPU all kernels are interpreted."""
    why = BACKENDS[backend].unsupported(SHAPE, jnp.bfloat16, None)
    return pytest.mark.skipif(why is not None, reason=str(why))


class TestReference(AttentionSuite):
    backend = "reference"


class TestTpu(AttentionSuite):
    """Interpreted on other devices."""

    backend = "tpu"


@pytest.mark.slow
@runs_here("flash")
class TestFlash(AttentionSuite):
    """Interpreted on other devices, which takes long: quick cases are in `test_attention_gpu`."""

    backend = "flash"
    dtypes = ("bfloat16",)


@pytest.mark.slow
@runs_here("flash_mma")
class TestFlashMma(AttentionSuite):
    """Interpreted on other devices: `test_attention_ampere` also runs what is compiled."""

    backend = "flash_mma"
    dtypes = ("bfloat16",)


if jax.default_backend() == "gpu":

    @runs_here("cudnn")
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


@pytest.mark.parametrize(("tensor", "fits"), [(1, True), (2, False), (4, True)])
def test_vector_memory_is_asked_for_what_one_device_computes(tensor, fits):
    """3 of 6 heads of 64 are no whole lanes but together; 4 parts do not divide 6 heads."""
    q = jax.ShapeDtypeStruct((1, 8, 2309, 6, 64), jnp.bfloat16)
    refused = pytest.raises(ValueError, match="'tpu' cannot do this: 2309 tokens take 56 of 48 MiB")
    with jax.set_mesh(make_mesh(tensor=tensor)), contextlib.nullcontext() if fits else refused:
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
    """Values and gradients of the Pallas kernel on 8 devices, to which nothing has to be sent."""
    q, k, v, grad, rope = inputs(case, "float32")

    def run(q, k, v, grad):
        out, backwards = jax.vjp(lambda q, k, v: attention(q, k, v, rope, "tpu"), q, k, v)
        return out, *backwards(grad)

    alone = jax.jit(run)(q, k, v, grad)
    with jax.set_mesh(mesh := make_mesh(*sizes)):
        groups, tensor = case.groups > 1, case.heads > 1
        spec = (BATCH_AXES, None) if groups else (None, BATCH_AXES)
        layout = NamedSharding(mesh, PartitionSpec(*spec, None, "tensor" if tensor else None))
        placed = jax.device_put((q, k, v, grad), layout)
        program = jax.jit(run).lower(*placed).compile()
        for ours, theirs in zip(program(*placed), alone, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)
    assert not collectives(program.as_text())
