"""Feed-forward layers: MLP with exact GELU, and SwiGLU (arXiv:2002.05202)."""

from functools import partial

import flax.linen as nn
import jax

from dinojax.kernels.gelu import gelu
from dinojax.models.dense import INIT_STD, Dense
from dinojax.precision import Precision
from dinojax.typing import Array, Float

FFN_ALIGNMENT = {"mlp": None, "swiglu": 8, "swiglu32": 32, "swiglu64": 64, "swiglu128": 128}
"""Names of the reference; for SwiGLU the multiple that the hidden width is rounded up to."""


def hidden_width(width: int, ratio: float, layer: str) -> int:
    """Hidden width of `layer`: ``int(D * ratio)``; SwiGLU takes two thirds of it, rounded up.

    Raises:
        ValueError: unknown `layer`.
    """
    if layer not in FFN_ALIGNMENT:
        raise ValueError(f"ffn_layer={layer!r} is unknown; use one of {sorted(FFN_ALIGNMENT)}")
    hidden, alignment = int(width * ratio), FFN_ALIGNMENT[layer]
    if alignment is None:
        return hidden
    two_thirds = int(hidden * 2 / 3)
    return two_thirds + (-two_thirds) % alignment


class Mlp(nn.Module):
    """``fc2(gelu(fc1(x)))`` with the exact (erf) GELU."""

    hidden: int
    use_bias: bool
    precision: Precision
    init_std: float = INIT_STD

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        width = x.shape[-1]
        dense = partial(
            Dense, precision=self.precision, use_bias=self.use_bias, init_std=self.init_std
        )
        x = gelu(dense((self.hidden,), tensor_axis=-1, name="fc1")(x))
        return dense((width,), tensor_axis=-2, name="fc2")(x)


class SwiGlu(nn.Module):
    """``w3(silu(w1 x) * w2 x)``; w1 is the gate."""

    hidden: int
    use_bias: bool
    precision: Precision
    init_std: float = INIT_STD

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        width = x.shape[-1]
        dense = partial(
            Dense, precision=self.precision, use_bias=self.use_bias, init_std=self.init_std
        )
        wide = partial(dense, (self.hidden,), tensor_axis=-1)
        gate, value = wide(name="w1")(x), wide(name="w2")(x)
        return dense((width,), tensor_axis=-2, name="w3")(jax.nn.silu(gate) * value)
