"""What the layers keep for their backward pass, and that it does not change the gradient."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from dinojax.models.block import KeptRows
from dinojax.models.features import CropDraws
from dinojax.models.remat import REMAT_POLICIES
from dinojax.models.vit import VisionTransformer
from dinojax.precision import POLICIES

WIDTH, DEPTH, CROPS, KEPT, TOKENS = 64, 3, 6, 4, 5


@functools.cache
def loss(remat: str):
    """Of the parameters, for six crops of which each residual branch keeps four."""
    model = VisionTransformer(WIDTH, DEPTH, 2, POLICIES["float32"], remat=remat, layerscale=1.0)
    images = jnp.sin(jnp.arange(1.0 * CROPS * 32 * 32 * 3)).reshape(1, CROPS, 32, 32, 3)
    rows = jnp.tile(jnp.arange(KEPT), (DEPTH, 1, 1))
    draws = (CropDraws(None, KeptRows(rows, rows)),)
    init = functools.partial(model.init, jax.random.key(0), images)

    def of(params):
        (features,) = model.apply({"params": params}, images, draws=draws)
        return jnp.square(features.patches).mean()

    return of, init


def kept_numbers(remat: str) -> int:
    """Floating point numbers per layer that the forward scan hands to the backward one."""
    of, init = loss(remat)
    params = jax.eval_shape(init)["params"]
    (scan, *_) = scans(jax.make_jaxpr(jax.grad(of))(params).jaxpr)
    kept = [out.aval for out in scan.outvars[scan.params["num_carry"] :]]
    floats = [one for one in kept if jnp.issubdtype(one.dtype, jnp.floating)]
    return sum(math.prod(one.shape[1:]) for one in floats)


def scans(jaxpr):
    """Loops over the layers in the order of their equations, inner programs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan" and equation.params["length"] == DEPTH:
            yield equation
            continue
        for value in equation.params.values():
            if hasattr(getattr(value, "jaxpr", None), "eqns"):
                yield from scans(value.jaxpr)


def test_full_keeps_the_input_alone():
    assert kept_numbers("full") == CROPS * TOKENS * WIDTH


def test_dots_keeps_the_results_of_products_as_well():
    """qkv, attention, both outputs and the hidden features, of the kept rows only."""
    products = KEPT * TOKENS * (3 + 1 + 1 + 4 + 1) * WIDTH
    assert kept_numbers("dots") == CROPS * TOKENS * WIDTH + products


def test_none_keeps_more():
    assert kept_numbers("none") > kept_numbers("dots")


@pytest.mark.parametrize("remat", slow_but(["full"], sorted(set(REMAT_POLICIES) - {"none"})))
def test_gradients_are_the_same(remat):
    of, init = loss("none")
    params = jax.jit(init)()["params"]
    expected = jax.jit(jax.grad(of))(params)
    found = jax.jit(jax.grad(loss(remat)[0]))(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
