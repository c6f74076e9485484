"""The kernels for Ampere: interpreted, and the code that CUDA's assembler gets, run in NumPy.

The slow tests need ``pip install "jax[cuda13]>=0.12"`` (Python 3.12 or later), and no GPU.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import ptx
import pytest
from attention_suite import Case, compare, inputs
from einops import rearrange
from gpu_targets import ptx_of_attention

from dinojax.kernels import tiles_ampere
from dinojax.kernels.attention_gpu import AMPERE, flash, supports
from dinojax.kernels.stream_gpu import make_plan, pack_tables
from dinojax.kernels.tiles_ampere import THREADS

needs_compiler = pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="needs jax 0.12")
BF16 = jnp.bfloat16


def run_in_numpy(text: str, q, k, v, rope, grad):
    """The output and the gradients from the three kernels of a PTX text."""
    *_, tokens, heads, width = q.shape
    plan = make_plan(AMPERE, tokens, width, turns=rope is not None)
    shape = q.shape
    q, k, v, grad = (np.asarray(rearrange(x, "G b N H d -> (G b) N H d")) for x in (q, k, v, grad))
    tables = [] if rope is None else [np.asarray(pack_tables(rope, plan.tiles))]
    sums = np.full((len(q), heads, plan.tiles, 64), np.nan, np.float32)
    result = np.full_like(q, np.nan)
    run = functools.partial(ptx.run, text, grid=(plan.blocks, heads, len(q)), threads=THREADS)

    # Parameters come in the order in which the kernels use them first.
    *_, sums, out = run(
        "attention_forward_mosaic_gpu_kernel", arrays=[k, v, q, *tables, sums, result]
    )
    overlaps = np.zeros_like(sums).reshape(len(q), heads, -1)
    overlaps[..., :tokens] = np.einsum("RNHd,RNHd->RHN", np.float64(out), np.float64(grad))
    per_query = [sums, overlaps.reshape(sums.shape)]
    *_, d_q = run(
        "attention_query_gradient_mosaic_gpu_kernel",
        arrays=[k, v, q, grad, *per_query, *tables, result],
    )
    *_, d_k, d_v = run(
        "attention_key_value_gradients_mosaic_gpu_kernel",
        arrays=[q, grad, k, v, *tables, *per_query, result, result],
    )
    return tuple(jnp.asarray(x).reshape(shape) for x in (out, d_q, d_k, d_v))


def test_interpreted_equals_float64():
    """One warpgroup, which two blocks of keys pass by."""
    case = Case(65, images=1, heads=1, prefix=5)
    q, k, v, grad, rope = inputs(case, "bfloat16")

    @jax.jit
    def run(q, k, v, grad):
        attend = functools.partial(flash, rope=rope, machine=AMPERE, interpret=True)
        out, gradients = jax.vjp(attend, q, k, v)
        return out, *gradients(grad)

    compare(run(q, k, v, grad), case, "bfloat16")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (Case(1, images=1, heads=1, tables=0, prefix=0), "bfloat16"),
        (Case(37, groups=2, images=1, tables=2), "bfloat16"),
        (Case(64, images=1, heads=1, scale=30.0), "float16"),
        (Case(65, images=1, heads=1, tables=0), "bfloat16"),
        (Case(201, images=1, prefix=5), "bfloat16"),
        (Case(130, groups=2, images=1, heads=1, head_dim=128, tables=2), "bfloat16"),
        (Case(70, images=1, heads=1, head_dim=128, prefix=5, scale=30.0), "float16"),
    ],
    ids=str,
)
def test_compiled_code_equals_float64(case, dtype):
    """Values and gradients, without reading or writing a byte that is not of the arrays."""
    q, k, v, grad, rope = inputs(case, dtype)
    text = ptx_of_attention("flash_mma", "8.0", q.shape, dtype, case.tables)
    assert ".target sm_80" in text
    compare(run_in_numpy(text, q, k, v, rope, grad), case, dtype)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("capability", ["8.6", "8.9", "9.0", "10.0"])
@pytest.mark.parametrize("width", [64, 128])
def test_compiles_for_later_ones(capability, width):
    text = ptx_of_attention("flash_mma", capability, (2, 3, 2309, 2, width), "bfloat16", tables=2)
    assert f".target sm_{capability.replace('.', '')}" in text
    assert text.count(".entry") == 3


@pytest.mark.parametrize(
    ("capability", "version", "reason"),
    [
        ("8.0", (0, 12, 0), None),
        ("9.0", (0, 12, 0), None),
        ("10.0", (0, 13, 0), None),
        (None, (0, 10, 2), None),  # the interpreter
        ("7.5", (0, 12, 0), "compute capability 7.5 is not 8.x (Ampere) to 10.x"),
        ("12.0", (0, 12, 0), "compute capability 12.0 is not 8.x (Ampere) to 10.x"),
        ("8.6", (0, 10, 2), "jax 0.10.2 makes no code for Ampere; 0.12 does"),
    ],
)
def test_supports(capability, version, reason, monkeypatch):
    monkeypatch.setattr(tiles_ampere, "JAX", version)
    assert supports((2, 3, 201, 6, 64), BF16, capability, AMPERE) == reason
