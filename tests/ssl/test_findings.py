"""What is not finite is found in networks of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recorded import PLAIN

from dinojax.build import build_init
from dinojax.config import default_config, parse_config
from dinojax.replay import step_findings
from dinojax.shrink import shrink


@pytest.mark.slow
def test_a_convnext_with_one_head_for_both_tasks():
    """The second block of its third stage has an infinite weight."""
    given = default_config()
    given.student.arch = "convnext_tiny"
    given = shrink(given)
    given.ibot.separate_head = False
    given.update_from_flattened_dict({k.replace("__", "."): v for k, v in PLAIN.items()})
    config = parse_config(given)
    state = jax.jit(build_init(config))()
    weight = state.student["backbone"]["stage_2"]["pwconv1"]["kernel"]
    state.student["backbone"]["stage_2"]["pwconv1"]["kernel"] = weight.at[1, 2, 3].set(jnp.inf)
    side, batch = config.data.canvas_px, config.train.batch_size
    canvas = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    found = step_findings(config)(
        state, {"canvas": canvas, "size": np.full((batch, 2), side, np.int32)}
    )
    assert found[0][:4] == ("state", "student/backbone/stage_2/pwconv1/kernel[1]", 0, 1)
    modules = [one.name for one in found if one.stage == "student modules"]
    assert modules[0] == "backbone/stage_2/pwconv1[1]"
    assert {"dino_head/to_logits", "dino_head of patches/to_logits"} <= set(modules)
    assert modules.index("backbone/stage_2[1]") < modules.index("backbone/stage_3/dwconv[0]")
    assert not [one for one in found if one.stage == "teacher modules"]
