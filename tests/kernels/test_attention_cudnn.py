"""cuDNN needs a GPU; here: what is lowered for one, and what is refused."""

import re

import jax
import jax.numpy as jnp
import pytest

from dinojax.kernels.attention_cudnn import cudnn, supports
from dinojax.kernels.rope import RopeTables


@pytest.mark.parametrize(("tokens", "padded"), [(37, 38), (38, 38)])
def test_lowers_for_cuda_to_cudnn_forward_and_backward(tokens, padded, monkeypatch):
    # Off CUDA there is no version to ask for.
    version = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(version, lambda: 91000)
    q = jax.ShapeDtypeStruct((2, 3, tokens, 2, 64), jnp.bfloat16)
    table = jax.ShapeDtypeStruct((2, tokens, 64), jnp.float32)

    def run(q, k, v, rope, d_out):
        out, gradients = jax.vjp(lambda *x: cudnn(*x, rope), q, k, v)
        return out, gradients(d_out)

    traced = jax.jit(run).trace(q, q, q, RopeTables(table, table), q)
    assert {x.shape for x in jax.tree.leaves(traced.out_info)} == {q.shape}
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    assert re.findall(r"custom_call @(\S+?)\(", text) == calls
    assert re.search(r"fmha_scale\\22: 0\.125,", text)
    assert text.count(f"tensor<6x{padded}x2x64xbf16>") > 0
    # With a length per image the padding is no key.
    masks = set(re.findall(r"mask_type\\22: \\22(\w+?)\\22", text))
    assert masks == {"PADDING" if tokens < padded else "NO_MASK"}


@pytest.mark.parametrize(
    ("shape", "dtype", "capability", "reason"),
    [
        ((2, 3, 201, 6, 64), jnp.bfloat16, "8.0", None),
        ((2, 3, 201, 6, 192), jnp.float16, "9.0", None),
        ((2, 3, 201, 6, 192), jnp.float16, "8.9", "head width 192 is no multiple of 8 up to 128"),
        ((2, 3, 201, 6, 36), jnp.float16, "9.0", "head width 36 is no multiple of 8 up to 256"),
        ((2, 3, 201, 6, 64), jnp.bfloat16, "7.5", "compute capability 7.5 is below 8.0 (Ampere)"),
        ((2, 3, 9, 6, 64), jnp.float32, "9.0", "float32 is neither bfloat16 nor float16"),
    ],
)
def test_supports(shape, dtype, capability, reason):
    assert supports(shape, dtype, capability) == reason
