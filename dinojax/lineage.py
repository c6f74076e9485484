"""What weights are and what they were made from: runs back to their first ancestors.

A run names its parents in its configuration: ``init.from``, ``gram.teacher`` and
``distillation.teacher``. A workdir of ``dinojax.import_torch`` has none and says which file it is.
"""

import os
from pathlib import Path
from typing import Any

from dinojax.backbones.names import find_release, is_released_name
from dinojax.backbones.run import student_section
from dinojax.export.hf_card import NOTICE
from dinojax.export.weights import Weights, is_weights, open_weights
from dinojax.imported import IMPORTED
from dinojax.runtime.checkpoint import DIRECTORY
from dinojax.runtime.contract import flatten, read_contract
from dinojax.runtime.earlier import STUDENT
from dinojax.runtime.errors import CheckpointError
from dinojax.runtime.metrics import last_step
from dinojax.training.safety import SNAPSHOTS

PARENTS = ("init.from", "gram.teacher", "distillation.teacher")
"""Keys that may name other weights."""
LICENCES = {"dinov2": "Apache-2.0", "dinov3": "DINOv3 License"}
"""Of what the two repositories have released, by system."""
LICENCE = "licence"


def describe_run(workdir: str, student: str | None = None) -> dict[str, Any]:
    """A run, or an imported backbone, by its contract; no array is read.

    Raises:
        FileNotFoundError: there is no contract.
        ValueError: it is damaged.
    """
    contract = read_contract(workdir)
    config, told = contract["config"], {"kind": "run", "path": workdir}
    if IMPORTED in contract:
        origin = contract[IMPORTED]
        return {
            **told,
            "kind": "imported weights",
            "arch": config["student"]["arch"],
            "file": origin.get("file"),
            "layout": origin.get("layout"),
            "checksum": origin.get("checksum"),
            LICENCE: origin.get(LICENCE),
            "parents": [],
        }
    section = student_section(config, student)
    changed = {key: section[key] for key in section if section[key] is not None}
    return {
        **told,
        "arch": section["arch"],
        "student": changed,
        "steps": config["train"]["steps"],
        "steps_logged": last_step(workdir),
        "checkpoints": _steps(Path(workdir) / DIRECTORY),
        "snapshots": _steps(Path(workdir) / SNAPSHOTS),
        "config_hash": contract.get("config_hash"),
        "versions": contract["versions"],
        "parents": parents(config, (os.path.abspath(workdir),)),
    }


def parents(config: dict[str, Any], seen: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """What a run was made from, as its nested configuration says: each with its own parents.

    Of paths that are not here any more nothing is known but the name.
    """
    flat = flatten(config)
    named = [(key, flat.get(key)) for key in PARENTS]
    return [
        {"key": key, **_parent(given, seen)}
        for key, given in named
        if isinstance(given, str) and given not in ("ema", "auto", "random")
    ]


def licence_of(path: str, metadata: dict[str, str], model: str | None = None) -> str | None:
    """Of the weights in a file, if its header, its name or the name of its model says so."""
    if LICENCE in metadata or NOTICE in metadata:  # a file of ours says it, or that there is none
        return metadata.get(LICENCE)
    for name in (model or "", Path(path).name, Path(path).parent.name):
        if is_released_name(name):
            try:
                return LICENCES[find_release(name).name.split("_")[0]]
            except ValueError:  # like a released name, and none
                continue
    return None


def _parent(given: str, seen: tuple[str, ...]) -> dict[str, Any]:
    path, _, student = given.partition(STUDENT)
    told: dict[str, Any] = {"path": given}
    if os.path.abspath(path) in seen or len(seen) > len(set(seen)):
        return {**told, "parents": []}
    try:
        if is_weights(path):
            weights = open_weights(path)
            return {**told, **describe_header(weights), "parents": []}
        where = Path(path)
        step = where.name if where.name.isdigit() else None
        workdir = where.parent.parent if step else where
        contract = read_contract(workdir)
    except (FileNotFoundError, ValueError, CheckpointError):
        return {**told, "kind": "not here any more", "parents": []}
    run = describe_run(str(workdir), student or None) if IMPORTED in contract else {}
    found = {
        "kind": run.get("kind", "run"),
        "arch": student_section(contract["config"], student or None)["arch"],
        "step": None if step is None else int(step),
        LICENCE: run.get(LICENCE),
    }
    known = {key: value for key, value in found.items() if value is not None}
    further = parents(contract["config"], (*seen, os.path.abspath(path)))
    return {**told, **known, "parents": further}


def describe_header(weights: Weights) -> dict[str, Any]:
    """What a file says of itself and its name tells; no tensor is read."""
    said = dict(weights.file.metadata)
    return {
        "kind": "weights",
        "layout": weights.layout,
        LICENCE: licence_of(weights.where, said),
        "metadata": said,
    }


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
