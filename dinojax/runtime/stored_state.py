"""One checkpoint on disk: read whole or in part onto any mesh, and proven by its digests.

Every checkpoint carries the digests of its leaves in Orbax's own metadata, which becomes visible
together with the arrays. So whatever storage did to it afterwards shows at reading.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint._src.futures.synchronization import OperationIdGenerator

from dinojax import trees
from dinojax.data.threads import StorageError
from dinojax.runtime.cluster import gather
from dinojax.runtime.digests import digests
from dinojax.runtime.errors import CheckpointError
from dinojax.typing import PyTree

STATE = "state"
DIGESTS = "digests"
NOTES = "notes"
SHOWN = 3
UNREACHABLE = (
    *("PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED"),
    os.strerror(errno.EIO),
)
"""What TensorStore says where the system says EACCES, ESTALE, ETIMEDOUT or EIO."""


def read_state(path: str | os.PathLike[str], abstract: PyTree, *, part: bool = False) -> PyTree:
    """The state, or the part of it that is asked for, from one checkpoint.

    All processes of a run make the same call, and it fails in all of them if in any.

    Args:
        path: of one step, as in ``runs/x/checkpoints/400`` or ``runs/x/snapshots/400``.
        abstract: `jax.ShapeDtypeStruct` with shardings. The mesh may be another one than at saving.
        part: `abstract` may leave out parts of the saved tree, such as all but
            ``{"teacher": {"backbone": ...}}``.

    Raises:
        ValueError: other leaves, shapes or dtypes than asked for; names the first few.
        CheckpointError: damaged; says how it shows.
        StorageError: not to be read now; it may be whole.
    """
    path = _absolute(path)
    state, expected, error = None, {}, None
    try:
        state, expected = _load(path, abstract, part)
    except (ValueError, CheckpointError, StorageError) as own:
        error = own
    reason = [isinstance(error, StorageError), "" if error is None else str(error)]
    reasons = [json.loads(told) for told in gather("checkpoint", json.dumps(reason))]
    _count_alike()
    if error is not None:
        raise error
    for process, (by_storage, reason) in enumerate(reasons):
        if reason:
            kind = StorageError if by_storage else CheckpointError
            raise kind(f"checkpoint {path} fails on process {process}: {reason}")
    found = digests(state)
    different = [name for name in found if expected.get(name) != found[name]]
    if different:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {_first(different)} have other bits than were saved"
        )
    return state


def _count_alike() -> None:
    """Orbax numbers its operations in each process, and later saves meet under these numbers.

    A load that failed before it began has none.
    """
    furthest = max(map(int, gather("operations", OperationIdGenerator.get_current_operation_id())))
    while int(OperationIdGenerator.get_current_operation_id()) < furthest:
        OperationIdGenerator.next_operation_id()


def read_notes(path: str | os.PathLike[str]) -> Any:
    """What was written beside the state: ``{"no_op_steps": [{"first", "end"}, ...]}`` by a run.

    Raises:
        CheckpointError: damaged.
    """
    path = _absolute(path)
    with _named(path):
        return _described(path)[1].get(NOTES)


def stored_leaves(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Shape and dtype of every leaf of the state, by its path, without reading it.

    Raises:
        CheckpointError: damaged.
    """
    path = _absolute(path)
    with _named(path):
        return _described(path)[0]


def read_digests(path: str | os.PathLike[str]) -> dict[str, str]:
    """Those that were saved with the leaves, by their paths; no array is read.

    Raises:
        CheckpointError: damaged, or not there.
    """
    path = _absolute(path)
    with _named(path):
        _, added = _described(path)
    return dict(_expected(path, added))


def fingerprint(path: str | os.PathLike[str]) -> str:
    """16 hex digits that tell what is saved there, from its digests.

    Raises:
        CheckpointError: damaged.
    """
    known = json.dumps(read_digests(path), sort_keys=True)
    return hashlib.blake2b(known.encode(), digest_size=8).hexdigest()


def _absolute(path: str | os.PathLike[str]) -> str:
    path = os.fspath(path)
    return path if "://" in path else os.path.abspath(path)


def _described(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the leaves are, and what `dinojax.runtime.checkpoint` has added."""
    described = ocp.metadata(path, checkpointable_name=STATE)
    added = described.custom_metadata
    return trees.flatten(described.metadata), added if isinstance(added, dict) else {}


def _expected(path: str, added: dict[str, Any]) -> dict[str, str]:
    digests = added.get(DIGESTS)
    if not digests:
        raise CheckpointError(f"checkpoint {path} is damaged: its digests are missing")
    return digests


def _load(path: str, abstract: PyTree, part: bool) -> tuple[PyTree, dict[str, str]]:
    """The arrays, unproven, and the digests that they should have; by this process alone."""
    with _named(path):
        saved, added = _described(path)
    if not saved:
        raise CheckpointError(f"checkpoint {path} is damaged: its list of arrays is missing")
    expected = _expected(path, added)
    _check_leaves(path, saved, trees.flatten(abstract), part)
    context, me = ocp.Context(), jax.process_index()
    context.pytree.loading.partial_load = part
    # Otherwise Orbax waits for the other processes: for ten minutes if one of them fails.
    context.multiprocessing.primary_host = me
    context.multiprocessing.active_processes = {me}
    with _named(path), context:
        return ocp.load(path, abstract, checkpointable_name=STATE), expected


@contextlib.contextmanager
def _named(path: str):
    """What Orbax and TensorStore raise, in one line; they know no common exception."""
    try:
        yield
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):  # memory, or open files
            raise
        text = " ".join(str(error).split())[:300]
        text = f"checkpoint {path} cannot be read ({type(error).__name__}: {text})"
        if _by_storage(error):
            raise StorageError(
                f"{text}; run the same command again once it can, or rename its directory to go on "
                f"from the one before it"
            ) from error
        raise CheckpointError(text) from error


def _by_storage(error: BaseException | None) -> bool:
    """Whether it says nothing about what is stored there."""
    if error is None:
        return False
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
    return any(status in str(error) for status in UNREACHABLE) or _by_storage(error.__cause__)


def _check_leaves(
    path: str, saved: Mapping[str, Any], wanted: Mapping[str, Any], part: bool
) -> None:
    """Orbax would cast other dtypes silently and explain other shapes in 3,000 characters."""
    different = [
        f"{name} is {_describe(saved.get(name))}, not {_describe(wanted.get(name))}"
        for name in sorted(wanted.keys() if part else saved.keys() | wanted.keys())
        if _describe(saved.get(name)) != _describe(wanted.get(name))
    ]
    if different:
        raise ValueError(
            f"checkpoint {path} holds another model: {_first(different, '; ')}; restore it with "
            f"the configuration it was saved under"
        )


def _first(names: list[str], separator: str = ", ") -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{separator.join(names[:SHOWN])}{more}"


def _describe(leaf: Any) -> str:
    return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
