"""One checkpoint on disk: read whole or in part onto any mesh, and proven by its digests.

Every checkpoint carries the digests of its leaves in Orbax's own metadata, which becomes visible
together with the arrays. So whatever storage did to it afterwards shows at reading.
"""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from orbax.checkpoint import v1 as ocp

from dinojax import trees
from dinojax.runtime.digests import digests
from dinojax.runtime.errors import CheckpointError
from dinojax.typing import PyTree

STATE = "state"
DIGESTS = "digests"
SHOWN = 3
_PART = ocp.options.PyTreeOptions(loading=ocp.options.PyTreeOptions.Loading(partial_load=True))


def read_state(path: str | os.PathLike[str], abstract: PyTree, *, part: bool = False) -> PyTree:
    """The state, or the part of it that is asked for, from one checkpoint.

    Args:
        path: of one step, as in ``runs/x/checkpoints/400`` or ``runs/x/snapshots/400``.
        abstract: `jax.ShapeDtypeStruct` with shardings. The mesh may be another one than at saving.
        part: `abstract` may leave out parts of the saved tree, such as all but
            ``{"teacher": {"backbone": ...}}``.

    Raises:
        ValueError: other leaves, shapes or dtypes than asked for; names the first few.
        CheckpointError: damaged; says how it shows.
    """
    path = os.fspath(path)
    path = path if "://" in path else os.path.abspath(path)
    with _named(path):
        described = ocp.metadata(path, checkpointable_name=STATE)
        saved = trees.flatten(described.metadata)
        custom = described.custom_metadata
        expected: Any = custom.get(DIGESTS) if isinstance(custom, dict) else None
    if not saved or not expected:
        raise CheckpointError(
            f"checkpoint {path} is damaged: its {'digests are' if saved else 'list of arrays is'} "
            f"missing"
        )
    _check_leaves(path, saved, trees.flatten(abstract), part)
    with _named(path), ocp.Context(pytree_options=_PART) if part else contextlib.nullcontext():
        state = ocp.load(path, abstract, checkpointable_name=STATE)
        found = digests(state)
    different = [name for name in found if expected.get(name) != found[name]]
    if different:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {_first(different)} have other bits than were saved"
        )
    return state


@contextlib.contextmanager
def _named(path: str):
    """What Orbax and TensorStore raise, in one line; they know no common exception."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: {text})"
        ) from error


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
