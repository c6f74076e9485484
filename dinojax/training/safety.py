"""What a training run keeps for bad days: its series of saved states, and the tale of a step."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh

from dinojax.config import CheckpointConfig
from dinojax.config.stages import RecoveryConfig
from dinojax.runtime.checkpoint import DIRECTORY, Checkpoints
from dinojax.runtime.contract import read_contract
from dinojax.runtime.quarantine import read_ledger
from dinojax.runtime.rollback import read_windows
from dinojax.ssl.gram import Refresh
from dinojax.ssl.recovery import SHARES
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.training.data import TrainingData
from dinojax.training.frozen_teacher import without_teacher
from dinojax.typing import PyTree

SNAPSHOTS = "snapshots"
"""Folder in a workdir: backbones of the EMA teacher, by step."""


def make_series(config: CheckpointConfig, workdir: str) -> list[Checkpoints]:
    """The checkpoints that a run resumes from and, if wanted, snapshots of its teacher."""

    def skipped(step: int) -> dict[str, Any]:
        windows = [window._asdict() for window in read_windows(workdir) if window.end <= step]
        return {"no_op_steps": windows}

    series = [
        Checkpoints(
            f"{workdir}/{DIRECTORY}",
            every_steps=config.every_steps,
            part=without_teacher,
            notes=skipped,
            keep_last=config.keep_last,
            keep_every_steps=config.keep_every_steps,
        )
    ]
    if config.snapshot_every_steps is not None:
        series.append(
            Checkpoints(
                f"{workdir}/{SNAPSHOTS}",
                every_steps=config.snapshot_every_steps,
                part=snapshot_part,
            )
        )
    return series


def teacher_part(backbone: PyTree) -> PyTree:
    """A teacher's backbone under the paths that it has in a state, so in both kinds of series.

    So ``read_state(path, teacher_part(abstract backbone), part=True)`` reads it from either.
    """
    return {"teacher": {"backbone": backbone}}


def snapshot_part(state: TrainState | Students) -> PyTree:
    """What a snapshot holds: `teacher_part`, of several students below their names."""
    if isinstance(state, TrainState):
        return teacher_part(state.teacher["backbone"])
    return {"students": {name: snapshot_part(one) for name, one in state.students.items()}}


def advance(state: TrainState | Students, step: int, refresh: Refresh) -> TrainState | Students:
    """The same state at another step; a Gram teacher is refreshed as the steps between would.

    Of refused steps none comes right before it then: those up to a window belong to what went
    wrong. At its own step it is the state that it was.
    """
    if step == int(state.step):
        return state
    if isinstance(state, TrainState) and state.gram_teacher is not None:
        between = jnp.arange(int(state.step) + 1, step + 1)
        if jax.vmap(refresh.due)(between).any():
            copies = jax.tree.map(
                lambda new, old: jax.device_put(jnp.copy(new), old.sharding),
                state.teacher["backbone"],
                state.gram_teacher,
            )
            state = state._replace(gram_teacher=copies)
    state = state._replace(step=jax.device_put(jnp.int32(step), state.step.sharding))
    if isinstance(state, Students):
        return state._replace(students={name: _calm(s) for name, s in state.students.items()})
    return _calm(state)


def _calm(state: TrainState) -> TrainState:
    none = jax.device_put(jnp.int32(0), state.refused_in_a_row.sharding)
    return state._replace(refused_in_a_row=none)


def recovery_teller(gate: RecoveryConfig) -> Callable[[int, Mapping[str, float]], None]:
    """What says, once, that the heads are ready and the backbone is trained; or that they are not.

    It is called with (steps done, their metrics).
    """
    told = []

    def tell(step: int, values: Mapping[str, float]) -> None:
        if told or not values.get("recovery_open"):
            return
        told.append(step)
        opened = int(values["recovery_opened_at"])
        if values["recovery_ready_in_a_row"] >= gate.patience_steps:
            logging.info("the heads are ready: the backbone is trained from step %d on", opened)
            return
        shares = ", ".join(f"{name} {values[name]:.3f}" for name in SHARES)
        logging.warning(
            "the backbone is trained from step %d on because recovery.max_steps=%s says so: the "
            "heads are NOT ready (%s, and recovery.open_below=%g). Check the data and the learning "
            "rate, or raise max_steps or open_below",
            *(opened, gate.max_steps, shares, gate.open_below),
        )

    return tell


def step_teller(workdir: str, data: TrainingData, mesh: Mesh) -> Callable[[int], dict[str, Any]]:
    """``step -> what a replay bundle says about it``: the run, its records and its devices."""

    def tell(step: int) -> dict[str, Any]:
        device = mesh.devices.flat[0]
        drawn = data.order.indices(step, range(data.order.global_batch))
        return {
            "workdir": str(Path(workdir).resolve()),
            "records": [data.source.record_id(index) for index in drawn.tolist()],
            "unreadable": [entry for entry in read_ledger(workdir) if entry["step"] <= step],
            "rollbacks": [window._asdict() for window in read_windows(workdir)],
            "devices": {
                "kind": device.device_kind,
                "mesh": dict(mesh.shape),
                "processes": jax.process_count(),
            },
            "run": read_contract(workdir),
        }

    return tell
