"""What a run saves, and what each checkpoint says about the steps before it."""

import json

import jax.numpy as jnp

from dinojax.config import CheckpointConfig
from dinojax.runtime.stored_state import read_notes
from dinojax.safety import make_series


def test_a_checkpoint_lists_the_no_op_steps_before_it(tmp_path):
    windows = [{"first": 4, "end": 9}, {"first": 14, "end": 19}]
    (tmp_path / "rollbacks.json").write_text(json.dumps(windows))
    (checkpoints,) = make_series(CheckpointConfig(every_steps=1, keep_last=9), str(tmp_path))
    with checkpoints:
        for step in (4, 9, 20):
            checkpoints.save(step, {"w": jnp.ones(3)})
    listed = [read_notes(tmp_path / "checkpoints" / str(step)) for step in (4, 9, 20)]
    assert listed == [{"no_op_steps": windows[:n]} for n in (0, 1, 2)]
