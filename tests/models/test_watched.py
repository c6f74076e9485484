"""Notes of what modules return: below their paths, layer by layer, and made inside the scan."""

import functools

import jax
import jax.numpy as jnp
import pytest

from dinojax import trees
from dinojax.models.convnext import ConvNeXt
from dinojax.models.vit import VisionTransformer
from dinojax.models.watched import apply_watched
from dinojax.precision import POLICIES

DEPTH, METHOD = 3, "__call__"
FLOAT32 = POLICIES["float32"]
VIT = VisionTransformer(64, DEPTH, 2, FLOAT32, remat="full", layerscale=1.0)
CONVNEXT = ConvNeXt((1, 1, DEPTH, 1), (16, 24, 32, 48), FLOAT32)
IMAGES = jax.ShapeDtypeStruct((1, 6, 64, 64, 3), jnp.float32)


@pytest.mark.parametrize("model", [VIT, CONVNEXT])
def test_scans_hand_on_notes_and_no_tensors(model):
    """One number for each layer and each tensor that Flax captures."""

    def sums(tree):
        return jax.tree.map(jnp.sum, tree)

    watched = functools.partial(apply_watched, model, note=sums, methods=[METHOD])
    captured = functools.partial(model.apply, capture_intermediates=True, mutable=["intermediates"])
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    (_, notes), (_, tensors) = (
        jax.eval_shape(apply, variables, IMAGES) for apply in (watched, captured)
    )
    tensors = trees.flatten(tensors["intermediates"])
    assert trees.flatten(notes).keys() == {name for name in tensors if METHOD in name}

    loops = [
        one
        for one in jax.make_jaxpr(watched)(variables, IMAGES).eqns
        if one.primitive.name == "scan"
    ]
    stacked = [out.aval.shape for loop in loops for out in loop.outvars[loop.params["num_carry"] :]]
    assert (DEPTH,) in stacked and {len(shape) for shape in stacked} == {1}
