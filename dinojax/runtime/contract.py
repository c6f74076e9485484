"""What a workdir belongs to: one configuration, dataset and start, written at the first start.

A run is a function of (config, data, seed), so a workdir that meets another configuration or other
data would silently hold the mixture of two runs. Later starts are compared with the first.
"""

import difflib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from absl import logging

import dinojax
from dinojax.runtime.atomic import replace_text
from dinojax.runtime.metrics import last_step

FILE = "config.json"
HOST_KEYS = (
    # What each host does for itself:
    "data.num_workers",  # the batch of a step is a function of (seed, step), whoever decodes it
    "data.prefetch_mb",
    "data.read_timeout_s",
    # Data may move, and lie elsewhere on each host. The fingerprint says whether they are the same:
    "data.source",
    "data.ids",
    "data.mixture",  # its weights are in the fingerprint
    "data.homogeneous_source",
)
"""Keys that may differ between the processes of a run, and change between starts."""
FREE_KEYS = (
    *HOST_KEYS,
    # What no training step depends on:
    "checkpoint.",  # when a state is saved, and which stay
    "knn.",  # reads the networks only
    "panels.",
    "train.log_every_steps",
    "train.hang_timeout_s",
    "train.rollback_after",  # the windows themselves are in a file of the workdir
    "guardian.",  # and so are those that it asks for
    "data.verify_images",  # looks for damaged records beforehand and changes none
    "data.bad_budget",  # when a run stops: it changes no batch
    # What changes the order of sums, so the last bits, but not the run:
    "mesh.",  # where arrays lie
    "student.remat",  # which activations are kept and which computed again
    "train.micro_batches",  # how much of the batch is computed at a time
    "train.prototype_chunk",  # how many logits exist at a time
    *("student.attention_backend", "distillation.backbone.attention_backend"),  # what computes it
    # How many layers the compiler sees at once:
    *("student.scan_unroll", "distillation.backbone.scan_unroll"),
)
"""Keys, and sections with a dot at the end, that may change between starts. All others are bound,
also those that would only extend a run: ``train.steps`` bends every schedule."""
PACKAGES = (
    *("jax", "flax", "optax", "orbax-checkpoint"),
    *("grain", "simplejpeg", "opencv-python-headless", "pillow"),  # what the images were
)
DATA = "data_fingerprint"
"""What `write_or_check` calls the data themselves, as if it were a key."""
ABSENT = "absent"
SHOWN = 3


def write_or_check(
    workdir: str | os.PathLike[str],
    config: dict[str, Any],
    fingerprint: dict[str, Any],
    allow_change: Sequence[str] = (),
    weights: Mapping[str, str | None] = MappingProxyType({}),
) -> None:
    """Make `workdir` belong to this configuration and data, or check that it does.

    All processes check, the first one writes. A restart rewrites the file, with the new values of
    `FREE_KEYS` and the new versions; other versions than before only warn. What else has changed
    must be in `allow_change`, and is entered into the file's ``history``.

    Args:
        workdir: created if absent.
        config: nested, of JSON values and tuples.
        fingerprint: of the data, ``{"records": digest, "images": {id: digest}}``
            (`dinojax.data.check.fingerprint`).
        allow_change: whole dotted keys, or `DATA`, that may differ from the last start.
        weights: digests of the files and checkpoints that the run starts from, by the keys that
            name them; None: not there any more, and not asked for.

    Raises:
        ValueError: the workdir belongs to another configuration or other data, its file cannot be
            read, or something is allowed to change that is no key.
    """
    path, now = Path(workdir) / FILE, _contract(config, fingerprint)
    now["weights"] = dict(weights)
    known = {*flatten(config), DATA}
    for key in allow_change:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1) or ["optim.lr.peak"]
            raise ValueError(f"--allow_change={key} is no key; use a whole one, as {near[0]}")
    if path.exists():
        before = read_contract(workdir)
        changed = _check(path, before, json.loads(json.dumps(now)), allow_change)
        now["history"] = before["history"]
        now["weights"] = {
            key: digest or before.get("weights", {}).get(key) for key, digest in weights.items()
        }
        if changed:
            logging.warning("%s: allowed to change: %s", path.parent, "; ".join(changed))
            now["history"] += [{"steps_logged": last_step(workdir), "changes": changed}]
    text = json.dumps(now, indent=2, sort_keys=True) + "\n"
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)


def read_contract(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """What a workdir belongs to: at least ``config``, ``data_fingerprint`` and ``versions``.

    Raises:
        FileNotFoundError: no run has been started there.
        ValueError: the file cannot be read.
    """
    path = Path(workdir) / FILE
    if not path.exists():
        raise FileNotFoundError(
            f"workdir {os.fspath(workdir)} has no {FILE}; give the --workdir of a run that has "
            "been started"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for key, kind in (
            *(("config", dict), ("data_fingerprint", dict), ("versions", dict)),
            ("history", list),
        ):
            if not isinstance(found[key], kind):
                raise TypeError(f"{key} is no {kind.__name__}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}); restore the file or use another "
            f"workdir"
        ) from error
    return found


def config_hash(config: dict[str, Any]) -> str:
    """16 hex digits, equal for configurations that differ in `FREE_KEYS` only."""
    text = json.dumps(binding(config), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _contract(config: dict[str, Any], fingerprint: dict[str, Any]) -> dict[str, Any]:
    return {
        "config": config,
        "config_hash": config_hash(config),
        "data_fingerprint": fingerprint,
        "history": [],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of dinojax and of the packages that it computes with."""
    others = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"dinojax": dinojax.__version__, **others}


def _check(
    path: Path, before: dict[str, Any], now: dict[str, Any], allow_change: Sequence[str]
) -> list[str]:
    """What has changed with permission, in words."""
    was, is_now = binding(before["config"]), binding(now["config"])
    allowed = changes(*({k: v[k] for k in allow_change if k in v} for v in (was, is_now)))
    changed = [change for change in changes(was, is_now) if change not in allowed]
    for key, digest in now["weights"].items():
        known = before.get("weights", {}).get(key)
        if None not in (digest, known) and digest != known:
            line = f"the weights that {key} names were {known} and are {digest}"
            (allowed if key in allow_change else changed).append(line)
    (allowed if DATA in allow_change else changed).extend(
        _data_changes(before["data_fingerprint"], now["data_fingerprint"])
    )
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise ValueError(
            f"workdir {path.parent} belongs to another run: {'; '.join(changed[:SHOWN])}{more}; "
            f"use another workdir, restore the value or allow the exact key with --allow_change=KEY"
        )
    upgraded = changes(before["versions"], now["versions"])
    if upgraded:
        logging.warning("%s: continuing with other versions: %s", path.parent, "; ".join(upgraded))
    return allowed


def _data_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    def named(images: dict[str, str]) -> dict[str, str]:
        return {f"digest of record {name!r}": digest for name, digest in images.items()}

    return changes(
        {"data fingerprint": before["records"]}, {"data fingerprint": now["records"]}
    ) or changes(named(before["images"]), named(now["images"]))


def binding(config: dict[str, Any]) -> dict[str, Any]:
    """Values that may not change, by dotted key, as JSON would return them."""
    flat = flatten(json.loads(json.dumps(config)))
    return {key: value for key, value in flat.items() if not _is_free(key)}


def _is_free(key: str) -> bool:
    return any(key.startswith(free) if free.endswith(".") else key == free for free in FREE_KEYS)


def flatten(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key."""
    flat = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [
        f"{key} was {_show(key, before)} and is {_show(key, now)}"
        for key in sorted(before.keys() | now.keys())
        if _show(key, before) != _show(key, now)
    ]


def _show(key: str, values: dict[str, Any]) -> str:
    return json.dumps(values[key]) if key in values else ABSENT
