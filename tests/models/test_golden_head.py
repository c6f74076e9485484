"""The DINO head against the reference, for every depth and bias option of the golden file."""

import re

import goldens
import jax
import jax.numpy as jnp
import pytest
from reference import check_gradients

from dinojax.export.names import from_torch
from dinojax.models.head import DinoHead
from dinojax.precision import POLICIES

pytestmark = pytest.mark.golden

PATH = "head/dino_head.npz"
CASES = sorted({k.split("/")[0] for k in goldens.arrays(PATH)})


@pytest.mark.parametrize("case", CASES)
def test_head(case):
    options = goldens.options(PATH)
    layers, bias = re.fullmatch(r"nlayers(\d+)_bias(\d)", case).groups()
    head = DinoHead(
        prototypes=options["out_dim"],
        hidden_dim=options["hidden_dim"],
        bottleneck_dim=options["bottleneck_dim"],
        layers=int(layers),
        mlp_bias=bool(int(bias)),
        precision=POLICIES["float32"],
    )
    x, z, proj = (jnp.asarray(goldens.arrays(PATH)[f"{case}/{k}"]) for k in ("x", "z", "proj"))
    like = jax.eval_shape(head.init, jax.random.key(0), x)["params"]
    prefix = f"{case}."
    state = {
        k.removeprefix(prefix): v
        for k, v in goldens.arrays("head/dino_head.state.safetensors").items()
        if k.startswith(prefix)
    }
    params = jax.tree.map(jnp.asarray, from_torch(state, like))

    def loss(params, x):
        out = head.apply({"params": params}, x)
        return jnp.vdot(out, proj), out

    (_, out), (grads, grad_x) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)
    goldens.check(PATH, f"{case}/out", out)
    goldens.check(PATH, f"{case}/grad_x", grad_x)
    check_gradients(PATH, case, grads)
    bottleneck = head.apply({"params": params}, x, method=DinoHead.to_bottleneck)
    goldens.check(PATH, f"{case}/out_no_last_layer", bottleneck)
    logits = head.apply({"params": params}, z, method=DinoHead.to_logits)
    goldens.check(PATH, f"{case}/out_only_last_layer", logits)
