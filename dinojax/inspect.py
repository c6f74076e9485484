"""What weights are: ``python -m dinojax.inspect FILE_OR_DIR``.

Takes a run's workdir, one of its checkpoints or snapshots, a file of weights of any layout of
`dinojax.export.weights`, or a Hugging Face folder. Prints its kind, its model, what it was made
from and, per module, shapes, dtypes and norms of its tensors; ``--tensors`` prints each one.
"""

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jax.sharding import SingleDeviceSharding

from dinojax import command
from dinojax.backbones.sniff import describe, nearest_preset, presets_of
from dinojax.export.names import nest
from dinojax.export.tensor_file import FLOATS
from dinojax.export.weights import is_weights, open_weights
from dinojax.lineage import describe_header, describe_run
from dinojax.runtime.checkpoint import DIRECTORY
from dinojax.runtime.contract import FILE
from dinojax.runtime.earlier import STUDENT, find_earlier
from dinojax.runtime.exits import STOPS, leave
from dinojax.runtime.stored_state import read_state, stored_leaves
from dinojax.trees import flatten

AT_A_TIME = 2**30
"""Bytes of a checkpoint that are read at once, or one leaf."""
SHORT = 300
"""Characters of a value that is printed; ``--json`` has all of them."""


class Tensor(NamedTuple):
    """A tensor as it is stored."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    norm: float | None
    """L2; None: no numbers of weights, or of a part of a checkpoint that is not evaluated."""


def inspect(path: str, *, allow_pth: bool = False) -> dict[str, Any]:
    """What `path` is, by keys that depend on its kind; ``tensors`` are of all kinds.

    Norms are of the file's tensors, or of the EMA teacher of a checkpoint (of a run its newest);
    a gigabyte, or one tensor, is read at a time.

    Raises:
        FileNotFoundError: there is nothing of these kinds.
        ValueError: it is damaged.
        dinojax.runtime.errors.CheckpointError: a checkpoint is.
    """
    if is_weights(path):
        weights = open_weights(path, allow_pth=allow_pth)
        tensors = []
        for name, shape in weights.file.shapes.items():
            kind = weights.file.dtypes[name]
            norm = _norm(weights.file[name]) if kind in FLOATS else None
            tensors.append(Tensor(name, shape, kind, norm))
            weights.file.release()
        fitting = presets_of(weights, 3)
        near = nearest_preset(weights, 3)
        model = " or ".join(fitting) or f"{describe(weights.shapes)}, most like {near}"
        return {"path": path, "arch": model, **describe_header(weights), "tensors": tensors}
    where, _, student = path.partition(STUDENT)
    if (Path(where) / FILE).is_file():
        told = describe_run(where, student or None)
        newest = _newest(where, told)
        if newest is None:
            return {**told, "tensors": []}
        checkpoint = f"{newest}{STUDENT}{student}" if student else newest
        return {**told, "tensors": list(_stored(checkpoint))}
    if not Path(where).name.isdigit():
        raise FileNotFoundError(
            f"{path} is no file of weights, Hugging Face folder, workdir, checkpoint or snapshot; "
            "give a .safetensors file, or runs/x, runs/x/checkpoints/400, runs/x/snapshots/400"
        )
    workdir = Path(where).parent.parent
    told = describe_run(str(workdir), student or None)
    kind = Path(where).parent.name.removesuffix("s")
    about = {"kind": f"{kind} of {told['kind']}", "path": path, "step": int(Path(where).name)}
    return {**told, **about, "workdir": str(workdir), "tensors": list(_stored(path))}


def _newest(workdir: str, told: dict[str, Any]) -> str | None:
    for folder in (DIRECTORY, "snapshots"):
        steps = told.get(folder) or [0]
        path = Path(workdir) / folder / str(steps[-1])
        if path.is_dir():
            return str(path)
    return None


def _stored(checkpoint: str) -> Iterator[Tensor]:
    """Leaves of a checkpoint; those of the EMA teacher are read, and held to their digests."""
    earlier = find_earlier(checkpoint, "checkpoint")
    stored = stored_leaves(earlier.path)
    read = [name for name in stored if name.startswith(f"{earlier.prefix}teacher/")]
    norms: dict[str, float] = {}
    while read:
        group, size = [read.pop(0)], 0
        while read and size < AT_A_TIME:
            size += math.prod(stored[read[0]].shape) * np.dtype(stored[read[0]].dtype).itemsize
            group.append(read.pop(0))
        norms |= _norms(earlier.path, {name: stored[name] for name in group})
    for name, leaf in stored.items():
        yield Tensor(name, tuple(leaf.shape), np.dtype(leaf.dtype).name, norms.get(name))


def _norms(path: str, leaves: Mapping[str, Any]) -> dict[str, float]:
    device = SingleDeviceSharding(jax.local_devices()[0])
    wanted = {
        name: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype, sharding=device)
        for name, leaf in leaves.items()
    }
    found = flatten(read_state(path, nest(wanted), part=True))
    return {name: _norm(np.asarray(value)) for name, value in found.items()}


def _norm(value: np.ndarray) -> float:
    """In float64, row by row: a copy of the whole would take twice its memory and more."""
    rows = value.reshape(len(value), -1) if value.ndim > 1 else value.reshape(1, -1)
    return math.sqrt(sum(float(np.square(row.astype(np.float64)).sum()) for row in rows))


def modules(tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Tensors that differ in numbers of their names only, together."""
    groups: dict[str, list[Tensor]] = {}
    for one in tensors:
        groups.setdefault(re.sub(r"(?<=[./])\d+(?=[./])", "*", one.name), []).append(one)
    return [_together(name, group) for name, group in groups.items()]


def _together(name: str, group: list[Tensor]) -> dict[str, Any]:
    norms = [one.norm for one in group if one.norm is not None]
    shapes = {one.shape for one in group}
    return {
        "name": name,
        "tensors": len(group),
        "shape": list(shapes.pop()) if len(shapes) == 1 else "several",
        "dtype": " and ".join(sorted({one.dtype for one in group})),
        "norms": [min(norms), max(norms)] if norms else None,
    }


def _print(found: dict[str, Any], every: bool) -> None:
    tensors: list[Tensor] = found["tensors"]
    for key, value in found.items():
        if key == "parents":
            print(f"{key:>14}" + ("" if value else "  none"))
            _print_parents(value, 1)
        elif key == "metadata":
            for name, text in value.items():
                print(f"{key:>14}  {name}: {text:.{SHORT}}")
        elif key != "tensors":
            print(f"{key:>14}  {'unknown' if value is None else value!s:.{SHORT}}")
    print(f"{'tensors':>14}  {len(tensors)}, {sum(math.prod(t.shape) for t in tensors):,} numbers")
    rows = modules(tensors)
    if every:
        rows = [_together(one.name, [one]) for one in tensors]
    for row in rows:
        low, high = row["norms"] or (None, None)
        norm = "" if low is None else f"{low:.4g}" + ("" if low == high else f" .. {high:.4g}")
        print(
            f"{row['tensors']:>4}  {row['dtype']:8}  {row['shape']!s:22}  {norm:20}  {row['name']}"
        )


def _print_parents(found: Sequence[dict[str, Any]], depth: int) -> None:
    for one in found:
        told = {k: v for k, v in one.items() if k not in ("parents", "key", "path", "metadata")}
        text = ", ".join(f"{key} {value}" for key, value in told.items() if value is not None)
        print(f"{'':>14}{'  ' * depth}{one['key']}={one['path']}: {text}")
        _print_parents(one["parents"], depth + 1)


def main(argv: Sequence[str]) -> None:
    given = flags.FLAGS
    if len(argv) != 2:
        command.refuse(f"one FILE_OR_DIR is inspected, not {list(argv[1:])}")
    try:
        found = inspect(argv[1], allow_pth=given.allow_pth)
    except STOPS as error:
        print(f"dinojax.inspect: {error}", file=sys.stderr)
        leave(error)
    if given.json:
        tensors = found.pop("tensors")
        shown = [one._asdict() for one in tensors] if given.tensors else modules(tensors)
        print(json.dumps({**found, "tensors" if given.tensors else "modules": shown}))
    else:
        _print(found, given.tensors)


if __name__ == "__main__":
    flags.DEFINE_bool("tensors", False, "Every tensor, not one line per module.")
    flags.DEFINE_bool("allow_pth", False, "Read files of PyTorch, by weights_only=True.")
    flags.DEFINE_bool("json", False, "Print one JSON object.")
    jax.config.update("jax_platforms", "cpu")
    command.run(main)
