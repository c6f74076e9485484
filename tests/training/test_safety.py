"""What a run saves, and what each checkpoint says about the steps before it."""

import json

import jax.numpy as jnp

from dinojax.config import CheckpointConfig
from dinojax.runtime.stored_state import read_notes
from dinojax.ssl.gram import Refresh
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.training.safety import advance, make_series


def state_at(step: int, refused: int = 0, in_a_row: int = 0) -> TrainState:
    counts = {"step": step, "refused_steps": refused, "refused_in_a_row": in_a_row}
    params = {"student": {"w": jnp.ones(3)}, "teacher": {}, "moments": None, "centers": None}
    return TrainState(**{name: jnp.int32(value) for name, value in counts.items()}, **params)


def test_a_checkpoint_lists_the_no_op_steps_before_it(tmp_path):
    windows = [{"first": 4, "end": 9}, {"first": 14, "end": 19}]
    (tmp_path / "rollbacks.json").write_text(json.dumps(windows))
    (checkpoints,) = make_series(CheckpointConfig(every_steps=1, keep_last=9), str(tmp_path))
    with checkpoints:
        for step in (4, 9, 20):
            checkpoints.save(step, state_at(step))
    listed = [read_notes(tmp_path / "checkpoints" / str(step)) for step in (4, 9, 20)]
    assert listed == [{"no_op_steps": windows[:n]} for n in (0, 1, 2)]


def test_a_refresh_among_no_op_steps_is_made_up_for():
    """The Gram teacher is then what it would be after steps that change nothing."""
    teacher = {"backbone": {"w": jnp.full(3, 2.0)}, "dino_head": {"w": jnp.ones(1)}}
    counts = {"step": jnp.int32(4), "refused_steps": jnp.int32(0), "refused_in_a_row": jnp.int32(0)}
    rest = {"student": teacher, "moments": None, "centers": None}
    state = TrainState(**counts, **rest, teacher=teacher, gram_teacher={"w": jnp.ones(3)})
    for load_step, expected in ((4, 1.0), (5, 2.0), (9, 2.0), (10, 1.0)):
        after = advance(state, 9, Refresh(load_step=load_step))
        assert int(after.step) == 9 and after.gram_teacher["w"].tolist() == [expected] * 3
    assert advance(state._replace(gram_teacher=None), 9, Refresh(load_step=6)).gram_teacher is None


def test_a_row_of_refused_steps_ends_with_a_window():
    """Otherwise a state that meets more of them looks spoilt for longer than it is."""
    state = state_at(8, refused=5, in_a_row=2)
    assert advance(state, 8, Refresh()) is state  # no window, as in most replays
    after = advance(state, 13, Refresh())
    assert [int(x) for x in (after.step, after.refused_steps, after.refused_in_a_row)] == [13, 5, 0]
    several = advance(Students(jnp.int32(8), {"a": state, "b": state}, None), 13, Refresh())
    rows = [int(one.refused_in_a_row) for one in several.students.values()]
    assert (int(several.step), rows) == (13, [0, 0])
