"""Multi-head self-attention as a module: projections around `dinojax.kernels.attention`."""

import flax.linen as nn
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from dinojax.kernels.attention import attention
from dinojax.kernels.attention_reference import first_weights
from dinojax.kernels.linear import PRODUCT, linears
from dinojax.kernels.rope import RopeTables
from dinojax.models.dense import Dense
from dinojax.precision import Precision
from dinojax.typing import Array, Float

CLS_ATTENTION = "cls_attention"
"""A collection of variables: what CLS attends to. Computed only where it is asked for."""
Tokens = Float[Array, "G b N D"]
Heads = Float[Array, "G b N H d"]


class Attention(nn.Module):
    """Multi-head self-attention, with RoPE on q and k unless positions are in the tokens.

    With `mask_k_bias` the key bias is absent from the sum: it cannot change the softmax, and in
    bf16 a large useless bias costs precision.
    """

    heads: int
    qkv_bias: bool
    proj_bias: bool
    mask_k_bias: bool
    init_std: float
    backend: str
    precision: Precision

    @nn.compact
    def __call__(self, x: Tokens, rope: RopeTables | None) -> Tokens:
        width = x.shape[-1]
        q, k, v = QueriesKeysValues(
            self.heads,
            self.qkv_bias,
            self.mask_k_bias,
            self.init_std,
            self.precision,
            name="qkv",
        )(x)
        if self.is_mutable_collection(CLS_ATTENTION):
            weights = first_weights(q, k, rope)
            self.sow(CLS_ATTENTION, "weights", rearrange(weights, "G b H N -> (G b) H N"))
        out = checkpoint_name(attention(q, k, v, rope, self.backend), PRODUCT)
        return Dense(
            (width,),
            self.precision,
            self.proj_bias,
            init_std=self.init_std,
            tensor_axis=-2,
            name="proj",
        )(rearrange(out, "G b N H d -> G b N (H d)"))


class QueriesKeysValues(nn.Module):
    """The three projections, with one kernel ``[D, 3, H, d]`` and one bias ``[3, H, d]``."""

    heads: int
    use_bias: bool
    mask_k_bias: bool
    init_std: float
    precision: Precision

    @nn.compact
    def __call__(self, x: Tokens) -> tuple[Heads, Heads, Heads]:
        width = x.shape[-1]
        features = (3, self.heads, width // self.heads)
        init = nn.initializers.normal(self.init_std)
        kernel = self.param("kernel", init, (width, *features), self.precision.param)
        biases = [None] * 3
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, features, self.precision.param)
            biases = [bias[0], None if self.mask_k_bias else bias[1], bias[2]]
        parts = linears(x, kernel, biases, compute=self.precision.compute, tensor_axis=-2)
        q, k, v = (rearrange(y, "G b N (H d) -> G b N H d", H=self.heads) for y in parts)
        return q, k, v
