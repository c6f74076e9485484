"""One transformer layer over all crop sizes at once, with exact-count stochastic depth."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax

from dinojax.kernels.linear import spread
from dinojax.kernels.rope import RopeTables
from dinojax.models.attention import Attention, Tokens
from dinojax.models.ffn import Mlp, SwiGlu, hidden_width
from dinojax.models.norm import NORM_LAYERS
from dinojax.precision import Precision, widen
from dinojax.typing import Array, Float, Int

Streams = tuple[Float[Array, "G _ _ D"], ...]
"""Tokens of each crop size: as many groups, but other numbers of rows and tokens."""


class KeptRows(NamedTuple):
    """Rows of a group that each residual branch runs on; the others skip the branch."""

    attention: Int[Array, "*L G m"] | None
    ffn: Int[Array, "*L G m"] | None


class LayerInputs(NamedTuple):
    """What one layer needs per crop size besides the tokens."""

    rope: RopeTables | None
    """None: positions are in the tokens already."""
    kept: KeptRows | None


def kept_count(rows: int, drop_path_rate: float) -> int:
    """Rows that stochastic depth keeps: a fixed count, at least one."""
    return max(int(rows * (1 - drop_path_rate)), 1)


def add_residual(
    x: Tokens, branch: Callable[[Tokens], Tokens], kept: Int[Array, "G m"] | None
) -> Tokens:
    """``x + branch(x)``, or with `kept` rows only: ``x[kept] += b/m * branch(x[kept])``.

    Batch-subset stochastic depth of DINOv2 (arXiv:2304.07193, section 5): dropped rows cost
    nothing, and the factor keeps the expectation.
    """
    if kept is None:
        return x + branch(x)
    scale = x.shape[1] / kept.shape[1]
    # Rows of a permutation: no masks for those that might be out of bounds, in either direction.
    given = {"unique_indices": True, "mode": "promise_in_bounds"}
    update = branch(jax.vmap(lambda rows, index: rows.at[index].get(**given))(x, kept))
    update = (widen(update) * scale).astype(x.dtype)  # bfloat16 would make 1.6875 of 32 / 19
    return jax.vmap(lambda rows, index, new: rows.at[index].add(new, **given))(x, kept, update)


class LayerScale(nn.Module):
    """Learned elementwise gain (arXiv:2103.17239)."""

    initial: float
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        init = nn.initializers.constant(self.initial)
        gamma = self.param("gamma", init, x.shape[-1:], self.precision.param)
        return x * spread(gamma, x.shape, x.dtype)


class Block(nn.Module):
    """Pre-norm transformer layer on a tuple of token streams, one per crop size (DINOv3, 3.1).

    All streams go through the layer together, so that sharded weights are gathered once for both.
    """

    heads: int
    ffn_layer: str
    ffn_ratio: float
    qkv_bias: bool
    proj_bias: bool
    ffn_bias: bool
    mask_k_bias: bool
    norm_layer: str
    layerscale: float | None
    init_std: float
    attention_backend: str
    precision: Precision

    @nn.compact
    def __call__(self, streams: Streams, inputs: tuple[LayerInputs, ...]) -> Streams:
        width = streams[0].shape[-1]
        norm = NORM_LAYERS[self.norm_layer]
        norm1, norm2 = norm(self.precision, name="norm1"), norm(self.precision, name="norm2")
        attn = Attention(
            self.heads,
            self.qkv_bias,
            self.proj_bias,
            self.mask_k_bias,
            self.init_std,
            self.attention_backend,
            self.precision,
            name="attn",
        )
        hidden = hidden_width(width, self.ffn_ratio, self.ffn_layer)
        ffn = (Mlp if self.ffn_layer == "mlp" else SwiGlu)(
            hidden, self.ffn_bias, self.precision, self.init_std, name="mlp"
        )
        ls1, ls2 = self._layer_scale("ls1"), self._layer_scale("ls2")

        out = []
        for x, given in zip(streams, inputs, strict=True):
            kept = given.kept or KeptRows(None, None)
            x = add_residual(x, lambda t, g=given: ls1(attn(norm1(t), g.rope)), kept.attention)
            x = add_residual(x, lambda t: ls2(ffn(norm2(t))), kept.ffn)
            out.append(x)
        return tuple(out)

    def _layer_scale(self, name: str) -> Callable[[Tokens], Tokens]:
        if not self.layerscale:
            return lambda x: x
        return LayerScale(self.layerscale, self.precision, name=name)
