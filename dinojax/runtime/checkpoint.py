"""Checkpoints of a run: saved in the background, whole or absent, restored onto any mesh.

The only module that knows Orbax (its v1 API). A checkpoint holds the train state and nothing else:
data order and random draws are functions of (config, seed, step).
"""

import os
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from dinojax import trees
from dinojax.typing import PyTree

STATE = "state"
SHOWN = 3


class Checkpoints:
    """The checkpoints in one directory; a context manager that finishes its writes on leaving.

    Saving copies the state to the host before it returns and writes files afterwards, so that the
    next step may donate the state at once. (On CPU Orbax keeps the buffers themselves, and JAX does
    not reuse what is kept.) `tests/runtime/test_checkpoint.py` holds Orbax to that. A write that
    fails raises in the next call. All processes make the same calls.

    Args:
        directory: created if absent. What a killed process left half-written there is never read,
            and replaced when that step is saved again.
        every_steps: a run saves at its multiples.
        keep_last: how many of the newest checkpoints stay.
        keep_every_steps: checkpoints at its multiples stay for ever; None: only the newest stay.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        every_steps: int,
        keep_last: int,
        keep_every_steps: int | None = None,
    ):
        for name, value in (
            ("every_steps", every_steps),
            ("keep_last", keep_last),
            ("keep_every_steps", keep_every_steps),
        ):
            if value is not None and value < 1:
                raise ValueError(f"checkpoint.{name}={value} must be at least 1; use 1")
        policies = ocp.training.preservation_policies
        keep: list[Any] = [policies.LatestN(keep_last)]
        if keep_every_steps is not None:
            keep.append(policies.EveryNSteps(keep_every_steps))
        self._every_steps = every_steps
        path = os.fspath(directory)
        # Orbax takes absolute paths and URLs of buckets.
        self._directory = path if "://" in path else os.path.abspath(path)
        self._orbax = ocp.training.Checkpointer(
            self._directory,
            preservation_policy=policies.AnyPreservationPolicy(keep),  # type: ignore[arg-type]
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._orbax.close()

    def is_due(self, step: int) -> bool:
        """Whether a run saves after this many steps."""
        return step % self._every_steps == 0

    def save(self, step: int, state: PyTree) -> bool:
        """Save whatever the step, unless it is there already; returns whether it did.

        A workdir has one contract, under which the state is a function of the step: what is there
        need not be written again.
        """
        if any(known.step == step for known in self._orbax.checkpoints):
            return False
        self._orbax.save_async(step, state, checkpointable_name=STATE, force=True)
        return True

    def wait(self) -> None:
        """Block until everything is on disk."""
        self._orbax.wait()

    def latest_step(self) -> int | None:
        """The newest whole checkpoint, or None; waits for one that is being written."""
        self.wait()
        latest = self._orbax.latest
        return None if latest is None else latest.step

    def restore(self, abstract_state: PyTree, step: int | None = None) -> PyTree:
        """The state saved at `step` (default: the newest), on the shardings of `abstract_state`.

        Args:
            abstract_state: `jax.ShapeDtypeStruct` with shardings in the structure of the state. The
                mesh may be another one than at saving.

        Raises:
            FileNotFoundError: no checkpoint, or none at `step`.
            ValueError: the saved state has other leaves, shapes or dtypes; names the first few.
        """
        self.wait()
        steps = [known.step for known in self._orbax.checkpoints]
        if not steps:
            raise FileNotFoundError(
                f"no checkpoint in {self._directory}; start a run there first, or name its "
                f"directory of checkpoints"
            )
        step = steps[-1] if step is None else step
        if step not in steps:
            raise FileNotFoundError(
                f"no checkpoint {step} in {self._directory}; use one of {steps}"
            )
        self._check(step, abstract_state)
        return self._orbax.load(step, abstract_state, checkpointable_name=STATE)

    def _check(self, step: int, abstract_state: PyTree) -> None:
        """Orbax would cast other dtypes silently and explain other shapes in 3,000 characters."""
        saved = trees.flatten(self._orbax.metadata(step).metadata)
        wanted = trees.flatten(abstract_state)
        different = [
            f"{path} is {_describe(saved.get(path))}, not {_describe(wanted.get(path))}"
            for path in sorted(saved.keys() | wanted.keys())
            if _describe(saved.get(path)) != _describe(wanted.get(path))
        ]
        if different:
            more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
            raise ValueError(
                f"checkpoint {step} in {self._directory} holds another model: "
                f"{'; '.join(different[:SHOWN])}{more}; restore it with the configuration it was "
                f"saved under"
            )


def _describe(leaf: Any) -> str:
    return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"


def abstract(tree: PyTree, shardings: PyTree) -> PyTree:
    """What `Checkpoints.restore` wants: shapes and dtypes of `tree` on these shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )
