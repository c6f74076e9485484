"""What is not finite is found in networks of every kind."""

import runpy
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recorded import PLAIN

from dinojax.build.inputs import build_inputs
from dinojax.build.loss import build_loss, build_step_loss
from dinojax.build.step import build_init
from dinojax.config import default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.replay import step_findings
from dinojax.ssl import findings
from dinojax.ssl.loss import Loss

ROOT = Path(__file__).parents[2]


def convnext():
    recipe = runpy.run_path(f"{ROOT}/configs/dinov3_convnext_distilled.py")
    return recipe["get_config"]("debug")


def gram_anchor():
    recipe = runpy.run_path(f"{ROOT}/configs/dinov3_vit7b16_gram_anchor.py")
    return recipe["get_config"]("debug")


def one_head_for_both_tasks():
    config = shrink(default_config())
    config.ibot.separate_head = False
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "whose", "path", "modules"),
    [
        (
            convnext,
            "student",
            "backbone/stage_2/pwconv1",
            ["backbone/stage_2/pwconv1[0]", "backbone/stage_3/norm[0]"],
        ),
        (
            gram_anchor,
            "gram_teacher",
            "blocks/mlp/w3",
            ["backbone/blocks/mlp/w3[0]", "backbone/blocks/norm1[1]"],
        ),
        (
            one_head_for_both_tasks,
            "student",
            "backbone/blocks/mlp/fc2",
            ["backbone/blocks/mlp/fc2[0]", "dino_head/to_logits", "dino_head of patches/to_logits"],
        ),
    ],
)
def test_an_infinite_weight_of_the_first_layer(given, whose, path, modules):
    """`modules`: the first that shows it, and some later ones in their order."""
    config = given()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in PLAIN.items()})
    config = parse_config(config)
    state = jax.jit(build_init(config))()
    node = getattr(state, whose)
    for name in path.split("/"):
        node = node[name]
    node["kernel"] = node["kernel"].at[0, 1, 3].set(jnp.inf)
    side, batch = config.data.canvas_px, config.train.batch_size
    canvas = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    found = step_findings(config)(
        state, {"canvas": canvas, "size": np.full((batch, 2), side, np.int32)}
    )
    assert found[0][:4] == ("state", f"{whose}/{path}/kernel[0]", 0, 1)
    stage = {"student": "student modules", "gram_teacher": "Gram teacher modules"}[whose]
    seen = [one.name for one in found if one.stage == stage]
    places = [seen.index(name) for name in modules]
    assert places[0] == 0 and places == sorted(places), seen
    assert not [one for one in found if one.stage == "teacher modules"]


def test_no_count_wraps(monkeypatch):
    """The patch embedding of the 7B recipe has 2^33 numbers."""
    leaf = jax.ShapeDtypeStruct((256, 32, 256, 4096), jnp.bfloat16)
    counts = jax.eval_shape(findings.counts_of, leaf)
    assert counts.shape == (3, 4096)
    every = np.full(counts.shape, 2**33 // 4096, counts.dtype)
    every[1] = 0
    stages = [{}, {"local_crops": every}, *[{}] * 6]
    monkeypatch.setattr(findings, "count_stages", lambda *_: stages)
    config = parse_config(shrink(default_config()))
    parts = build_loss(config), build_step_loss(config), build_inputs(config)
    state = jax.eval_shape(build_init(config))
    empty = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), state)
    (found,) = findings.make_findings(*parts)(empty, None)
    assert found == ("inputs", "local_crops", 2**33, 0, 2**33)


def test_counts():
    leaf = jnp.ones((2, 3, 5)).at[0, :2, 4].set(jnp.nan).at[1, 1, 1].set(-jnp.inf)
    assert findings.counts_of(leaf).sum(axis=1).tolist() == [2, 1, 30]
    assert findings.counts_of(leaf[0, 0, 4]).tolist() == [[1], [0], [1]]
    assert findings.counts_of(jnp.ones(3, jnp.int32)).size == 0


def test_products_are_those_of_the_train_step(monkeypatch):
    config = shrink(default_config())
    config.train.precision = "float32"
    config = parse_config(config)
    seen = []

    def spy(*found):
        def look(*_):
            (product,) = jax.make_jaxpr(jnp.matmul)(jnp.ones((2, 2)), jnp.ones((2, 2))).eqns
            seen.append(product.params["precision"])
            return found

        return look

    monkeypatch.setattr(Loss, "examine", spy({}, {}))
    monkeypatch.setattr(Loss, "gradients", spy({}, {}, None))
    parts = build_loss(config), build_step_loss(config), spy()
    with jax.default_matmul_precision("default"):
        state = jax.eval_shape(build_init(config))
        jax.eval_shape(partial(findings.count_stages, *parts), state, None)
    assert seen == [(jax.lax.Precision.HIGHEST,) * 2] * 3
