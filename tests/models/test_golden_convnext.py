"""ConvNeXt against the reference: outputs, stages, drop path and gradients of every golden case."""

import functools
import re

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from reference import check_gradients, convnext_from_options, features_dict

from dinojax.export.names import from_torch
from dinojax.models.convnext import ConvNeXt
from dinojax.models.convnext_block import drop_path_gains
from dinojax.models.features import CropDraws

pytestmark = pytest.mark.golden

STATES = goldens.files("convnext/", ".state.safetensors")


def load(state: str):
    """Model, parameters and inputs of a golden state file, and the file of its results."""
    options = dict(goldens.options(state))
    options.pop("drop_path_rate", None)
    model = convnext_from_options(options)
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 32, 32, 3)))["params"]
    params = jax.tree.map(jnp.asarray, from_torch(goldens.arrays(state), like))
    path = state.replace(".state.safetensors", ".npz")
    tags = [k.removesuffix("/x") for k in goldens.arrays(path) if k.endswith("/x")]
    assert tags
    return model, params, path, tags


def images(x: np.ndarray) -> jax.Array:
    return jnp.asarray(rearrange(x, "b c h w -> 1 b h w c"))


def recorded_draws(path: str, tag: str) -> CropDraws | None:
    """The gains of the layers; the first layer's rate is 0 and nothing was drawn for it."""
    rand = goldens.children(path, f"{tag}/draws")
    if not rand:
        return None
    uniform = np.stack(
        [np.zeros_like(rand["rand0"])] + [rand[f"rand{i}"] for i in range(len(rand))]
    )
    rate = goldens.options(path)["drop_path_rate"]
    return CropDraws(None, None, drop_path_gains(jnp.asarray(uniform), rate)[:, None])


@pytest.mark.parametrize("state", STATES)
def test_forward_and_gradients(state):
    model, params, path, tags = load(state)
    for tag in tags:
        case, draws = goldens.children(path, tag), recorded_draws(path, tag)
        proj = goldens.children(path, f"{tag}/proj")

        @jax.jit
        def run(params, x, draws=draws, proj=proj):
            def objective(params, x):
                (features,) = model.apply({"params": params}, x, draws=(draws,))
                named = features_dict(features)
                return sum(jnp.vdot(named[k], v) for k, v in proj.items()), named

            return jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)(params, x)

        (loss, named), (grads, grad_x) = run(params, images(case["x"]))
        for name, value in named.items():
            goldens.check(path, f"{tag}/out/{name}", value)
        goldens.check(path, f"{tag}/loss", loss)
        check_gradients(path, tag, grads)
        if "grad_x" in case:
            goldens.check(path, f"{tag}/grad_x", rearrange(grad_x, "1 b h w c -> b c h w"))


@pytest.mark.slow
@pytest.mark.parametrize("state", [s for s in STATES if not goldens.options(s)["train"]])
def test_stages(state):
    """``get_intermediate_layers`` with every combination of its options that was recorded."""
    model, params, path, _ = load(state)
    names = {m[0] for k in goldens.arrays(path) if (m := re.match(r"in\d+/gil/\w+/\w+", k))}
    assert names

    @functools.cache
    def stages_of(tag, norm):
        x = images(goldens.arrays(path)[f"{tag}/x"])

        def run(params, x):
            return model.apply(
                {"params": params}, x, range(4), norm=norm, method=ConvNeXt.intermediate
            )

        return jax.jit(run)(params, x)

    for name in sorted(names):
        tag, _, which, how = name.split("/")
        norm, reshape = (bool(int(x)) for x in re.fullmatch(r"norm(\d)_reshape(\d)", how).groups())
        stages = range(4) if which == "n4" else [int(d) for d in which.removeprefix("idx")]
        for index, stage in enumerate(stages):
            features = stages_of(tag, norm)[stage]
            patches = features.patches[0]
            if reshape:
                rows = goldens.arrays(path)[f"{name}/{index}/patch"].shape[2]
                patches = rearrange(patches, "b (r c) D -> b D r c", r=rows)
            goldens.check(path, f"{name}/{index}/patch", patches)
            goldens.check(path, f"{name}/{index}/cls", features.cls[0])
