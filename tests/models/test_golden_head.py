"""The heads of both systems against the references, for every depth and bias option."""

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

CASES = [
    (path, case)
    for stem in ("head/dino_head", "dinov2/head")
    for path in goldens.files(stem, ".npz")
    for case in sorted({k.split("/")[0] for k in goldens.arrays(path)})
]


@pytest.mark.parametrize(("path", "case"), CASES)
def test_head(path, case):
    options = goldens.options(path)
    layers, bias = re.fullmatch(r"nlayers(\d+)(?:_bias(\d))?", case).groups(default=1)
    head = DinoHead(
        prototypes=options["out_dim"],
        hidden_dim=options["hidden_dim"],
        bottleneck_dim=options["bottleneck_dim"],
        layers=int(layers),
        mlp_bias=bool(int(bias)),
        weight_norm=path.startswith("dinov2/"),
        precision=POLICIES["float32"],
    )
    given = {k: jnp.asarray(v) for k, v in goldens.children(path, case).items()}
    x, proj = given["x"], given["proj"]
    like = jax.eval_shape(head.init, jax.random.key(0), x)["params"]
    prefix = f"{case}."
    state = {
        k.removeprefix(prefix): v
        for k, v in goldens.arrays(path.replace(".npz", ".state.safetensors")).items()
        if k.startswith(prefix)
    }
    params = jax.tree.map(jnp.asarray, from_torch(state, like))

    def loss(params, x):
        out = head.apply({"params": params}, x)
        return jnp.vdot(out, proj), out

    (_, out), (grads, grad_x) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)
    goldens.check(path, f"{case}/out", out)
    goldens.check(path, f"{case}/grad_x", grad_x)
    check_gradients(path, case, grads)
    if "z" in given:  # the halves, which DINOv2's head is not called by
        bottleneck = head.apply({"params": params}, x, method=DinoHead.to_bottleneck)
        goldens.check(path, f"{case}/out_no_last_layer", bottleneck)
        logits = head.apply({"params": params}, given["z"], method=DinoHead.to_logits)
        goldens.check(path, f"{case}/out_only_last_layer", logits)
