"""What is not finite is found in networks of every kind."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recorded import PLAIN

from dinojax.build.step import build_init
from dinojax.config import default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.replay import step_findings

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
