"""Checkpoints of a run: saved in the background, whole or absent, restored onto any mesh.

Only this module and `stored_state` know Orbax (its v1 API). A checkpoint holds the train state and
nothing else: data order and random draws are functions of (config, seed, step).
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from absl import logging
from orbax.checkpoint import v1 as ocp

from dinojax.runtime.agreement import VISIBLE_WITHIN_S, agree
from dinojax.runtime.cluster import gather
from dinojax.runtime.digests import digests
from dinojax.runtime.errors import CheckpointError
from dinojax.runtime.stored_state import DIGESTS, NOTES, STATE, read_state
from dinojax.typing import PyTree

DIRECTORY = "checkpoints"
"""Of a workdir, with what its run resumes from."""
DAMAGED = ".damaged"
HALF_WRITTEN = ".orbax-checkpoint-tmp"


class Checkpoints:
    """The checkpoints in one directory; a context manager that finishes its writes on leaving.

    Saving copies the state to the host before it returns and writes files afterwards, so that the
    next step may donate the state at once. (On CPU Orbax keeps the buffers themselves, and JAX does
    not reuse what is kept.) `tests/runtime/test_checkpoint.py` holds Orbax to that. A write that
    fails raises in the next call, whichever it is; `check` is the cheapest. All processes make the
    same calls.

    Args:
        directory: created if absent. What a killed process left half-written there is never read.
        every_steps: a run saves at its multiples.
        keep_last: how many of the newest checkpoints stay; None: all.
        keep_every_steps: checkpoints at its multiples stay for ever; None: only the newest stay.
        part: what is saved of a state, under the paths that it has there; None: all of it.
        notes: ``step -> JSON`` that is kept with a checkpoint (`stored_state.read_notes`); taken
            from the first process.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        every_steps: int,
        keep_last: int | None = None,
        keep_every_steps: int | None = None,
        part: Callable[[PyTree], PyTree] | None = None,
        notes: Callable[[int], Any] = lambda step: None,
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
        self._every_steps, self._part, self._notes = every_steps, part, notes
        self._orbax = ocp.training.Checkpointer(
            os.path.abspath(directory),  # Orbax takes no other
            preservation_policy=policies.AnyPreservationPolicy(keep),  # type: ignore[arg-type]
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[bool] | None = None

    def __enter__(self) -> "Checkpoints":
        self._reload()
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            with contextlib.suppress(Exception):  # what `wait` has raised, once more
                self._orbax.close()

    def is_due(self, step: int) -> bool:
        """Whether a run saves after this many steps."""
        return step % self._every_steps == 0

    def save(self, step: int, state: PyTree) -> bool:
        """Save whatever the step, unless it is there already; returns whether it did.

        A workdir has one contract, under which the state is a function of the step: what is there
        need not be written again.

        Raises:
            CheckpointError: this write cannot begin, or the one before it failed.
        """
        if step in self.steps():
            return False
        if self._part is not None:
            state = self._part(state)
        metadata: Any = {DIGESTS: digests(state), NOTES: self._notes(step)}
        with _writing(step, self._orbax.directory):
            response = self._orbax.save_async(
                step,
                state,
                checkpointable_name=STATE,
                force=True,
                custom_metadata=metadata,
            )
        assert response is not None  # forced
        self._saving = self._thread.submit(_finish, response, step, self._orbax.directory)
        return True

    def check(self) -> None:
        """Raise if the write in the background has failed by now; waits for nothing.

        Raises:
            CheckpointError: it has.
        """
        saving = self._saving
        if saving is not None and saving.done() and saving.exception() is not None:
            self.wait()

    def wait(self) -> None:
        """Block until everything is on disk.

        Raises:
            CheckpointError: it could not be written.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def steps(self) -> list[int]:
        """Steps of the checkpoints that look whole, ascending; waits for one being written."""
        self.wait()
        return [known.step for known in self._orbax.checkpoints]

    def path(self, step: int) -> str:
        """Directory of a checkpoint."""
        return str(self._orbax.directory / str(step))

    def restore(self, abstract_state: PyTree, step: int) -> PyTree:
        """The state saved at `step`, on the shardings of `abstract_state`.

        Args:
            abstract_state: as for `dinojax.runtime.stored_state.read_state`, which says what
                raises.

        Raises:
            FileNotFoundError: there is none.
        """
        steps = self.steps()
        if step not in steps:
            raise FileNotFoundError(
                f"no checkpoint {step} in {self._orbax.directory}; use one of {steps}"
            )
        return read_state(self.path(step), abstract_state)

    def restore_newest(self, abstract_state: PyTree) -> tuple[int, PyTree] | None:
        """(step, state) of the newest checkpoint that is whole; None: there has been none.

        Each one that is damaged is named in the log with the reason. Once a whole one is found they
        are renamed to ``STEP.damaged``, so that the run can save those steps again and counts only
        whole checkpoints among those that stay.

        Raises:
            CheckpointError: there are checkpoints, and none can be used.
            Exception: what `read_state` raises of one that may be whole.
        """
        reasons: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                state = read_state(self.path(step), abstract_state)
            except CheckpointError as error:
                reasons[step] = str(error)
                logging.warning("skipped: %s", error)
            else:
                self._set_aside(reasons)
                return step, state
        left = [path.name for path in self._orbax.directory.iterdir()]
        damaged = [name for name in left if name.endswith(DAMAGED)]
        if reasons or damaged:
            raise CheckpointError(
                f"no checkpoint in {self._orbax.directory} can be used: "
                f"{'; '.join(reasons.values()) or f'all are {DAMAGED}: {damaged}'}. Bring one "
                f"back, or use another workdir to start from nothing"
            )
        return None

    def delete_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, the newest first, and what is half-written."""
        for later in [known for known in reversed(self.steps()) if known > step]:
            self._orbax.delete(later)
        if jax.process_index() == 0:
            for path in self._orbax.directory.iterdir():
                if HALF_WRITTEN in path.name:
                    logging.warning("%s is half-written: deleted", path)
                    path.rmtree(missing_ok=True)

    def _set_aside(self, steps: Iterable[int]) -> None:
        if jax.process_index() == 0:
            for step in steps:
                path = self._orbax.directory / str(step)
                taken = {other.name for other in self._orbax.directory.iterdir()}
                names = (f"{step}{n}{DAMAGED}" for n in ("", *(f".{i}" for i in range(len(taken)))))
                path.rename(self._orbax.directory / next(n for n in names if n not in taken))
        self._reload()

    def _reload(self) -> None:
        """All processes see what the first one sees; storage may show it to the others later."""
        self._orbax.reload()
        first = json.loads(gather("checkpoints", json.dumps(self.steps()))[0])
        deadline = time.monotonic() + VISIBLE_WITHIN_S
        while self.steps() != first and time.monotonic() < deadline:
            time.sleep(1)
            self._orbax.reload()
        agree("checkpoints", {"checkpoints": self.steps()})


def _finish(response: Any, step: int, directory: Any) -> bool:
    with _writing(step, directory):
        return response.result()


@contextlib.contextmanager
def _writing(step: int, directory: Any) -> Iterator[None]:
    """Orbax and TensorStore raise whatever they met; nothing may train on without checkpoints."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {step} cannot be written to {directory} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}); repair the storage and run the same command "
            f"again"
        ) from error


def abstract(tree: PyTree, shardings: PyTree) -> PyTree:
    """What `Checkpoints.restore` wants: shapes and dtypes of `tree` on these shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )
