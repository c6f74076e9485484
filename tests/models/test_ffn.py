"""Feed-forward layers against NumPy, and the published hidden widths."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.models.ffn import FFN_ALIGNMENT, Mlp, SwiGlu, hidden_width
from dinojax.precision import POLICIES

WIDTH, HIDDEN = 3, 5
X = np.random.default_rng(0).normal(size=(4, WIDTH))


@pytest.mark.parametrize(
    ("width", "ratio", "layer", "hidden"),
    [
        (1024, 4.0, "mlp", 4096),
        (384, 6.0, "swiglu", 1536),  # ViT-S+
        (1280, 6.0, "swiglu", 5120),  # ViT-H+
        (4096, 3.0, "swiglu64", 8192),  # ViT-7B
        (1536, 4.0, "swiglu", 4096),  # DINOv2 ViT-g
        (100, 1.0, "swiglu", 72),
        (100, 1.0, "swiglu32", 96),
        (100, 1.0, "swiglu64", 128),
        (100, 1.0, "swiglu128", 128),
    ],
)
def test_hidden_width(width, ratio, layer, hidden):
    assert hidden_width(width, ratio, layer) == hidden


def test_unknown_layer_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"ffn_layer='glu' is unknown; use one of .*'swiglu32'"):
        hidden_width(8, 4.0, "glu")
    assert set(FFN_ALIGNMENT) == {"mlp", "swiglu", "swiglu32", "swiglu64", "swiglu128"}


def gelu(x: float) -> float:
    """Exact: x times the normal distribution function (arXiv:1606.08415)."""
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def apply(layer, x):
    """The layer's output and its weights, all of them random, in float64."""
    with jax.enable_x64(True):
        shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.asarray(x))["params"]
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)
        return np.asarray(layer.apply({"params": params}, jnp.asarray(x))), params


def dense(row, params):
    return row @ np.asarray(params["kernel"]) + np.asarray(params.get("bias", 0))


@pytest.mark.parametrize("use_bias", [True, False])
def test_mlp(use_bias):
    found, params = apply(Mlp(HIDDEN, use_bias, POLICIES["float64"]), X)
    for out, row in zip(found, X, strict=True):
        hidden = np.array([gelu(h) for h in dense(row, params["fc1"])])
        np.testing.assert_allclose(out, dense(hidden, params["fc2"]), rtol=1e-10)
    assert ("bias" in params["fc1"]) == ("bias" in params["fc2"]) == use_bias


@pytest.mark.parametrize("use_bias", [True, False])
def test_swiglu_gates_with_its_first_map(use_bias):
    """arXiv:2002.05202, Eq. 6."""
    found, params = apply(SwiGlu(HIDDEN, use_bias, POLICIES["float64"]), X)
    for out, row in zip(found, X, strict=True):
        gate = np.array([silu(h) for h in dense(row, params["w1"])])
        expected = dense(gate * dense(row, params["w2"]), params["w3"])
        np.testing.assert_allclose(out, expected, rtol=1e-10)
