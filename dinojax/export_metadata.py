"""What a file says of its weights: recipe, step, data, and the terms of all that they came from."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dinojax
from dinojax.backbones.opened import Opened
from dinojax.backbones.released import METADATA, Released
from dinojax.backbones.run import Trained
from dinojax.config import Config, to_dict
from dinojax.config.students import config_of
from dinojax.data.check import Fingerprint
from dinojax.export.hf_card import NOTICE
from dinojax.imported import IMPORTED
from dinojax.lineage import LICENCE, describe_run, licence_of
from dinojax.runtime.contract import binding
from dinojax.training.initial_state import CHECKPOINT_KEYS

LICENCE_TEXTS = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "DINOv3 License": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
}
UNKNOWN = "unknown"


def metadata_of(opened: Opened, layout: str) -> dict[str, str]:
    """All that depends on nothing but the checkpoint, as a file's metadata has it."""
    return {
        "layout": layout,
        "arch": opened.arch,
        **opened.origin,
        **(_of_run(opened) if isinstance(opened, Trained) else {}),
        **licences(opened),
        "rgb_mean": json.dumps(opened.images.mean),
        "rgb_std": json.dumps(opened.images.std),
        "image_px": str(opened.images.image_px),
        "dinojax": dinojax.__version__,
    }


def licences(opened: Opened) -> dict[str, str]:
    """The terms of weights that these were made from, by name and in a sentence.

    A run carries those of everything that it started from or was taught by, through all its
    parents. Where they are not known, that is said.
    """
    if isinstance(opened, Trained) and IMPORTED not in opened.contract:
        return _notice(list(_of_ancestors(describe_run(opened.workdir, opened.student))))
    if isinstance(opened, Trained):
        origin = opened.contract[IMPORTED]
        return _of_file(origin["file"], origin["metadata"], origin[LICENCE])
    if isinstance(opened, Released):
        said, model = dict(opened.weights.file.metadata), opened.name.partition("#")[2]
        return _of_file(opened.path, said, licence_of(opened.path, said, model))
    return {NOTICE: "Random weights, made by dinojax: they come from no other weights."}


def _of_file(path: str, said: Mapping[str, str], licence: str | None) -> dict[str, str]:
    if NOTICE in said:
        return {key: said[key] for key in (LICENCE, NOTICE) if key in said}
    return _notice([(Path(path).name, licence)])


def _notice(found: list[tuple[str, str | None]]) -> dict[str, str]:
    if not found:
        said = "Trained from random weights: no terms of other weights apply to it."
        return {NOTICE: said}
    parts = []
    for name, licence in dict.fromkeys(found):
        where = LICENCE_TEXTS.get(licence or "")
        terms = f"{licence}{f' ({where})' if where else ''}" if licence else "unknown terms"
        parts.append(f"{name}: {terms}")
    names = sorted({licence or UNKNOWN for _, licence in found})
    return {
        LICENCE: ", ".join(names),
        NOTICE: "Made from weights that have terms of their own, which apply to what is made from "
        f"them: {'; '.join(parts)}.",
    }


def _of_ancestors(described: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Weights that are not a run's own, by file name, and their licence if it is known."""
    for parent in described["parents"]:
        said = parent.get("metadata", {})
        is_own = parent.get("kind") == "run" or (NOTICE in said and LICENCE not in said)
        if not is_own:
            yield Path(parent["path"]).name, parent.get(LICENCE)
        yield from _of_ancestors(parent)


def _of_run(trained: Trained) -> dict[str, str]:
    if IMPORTED in trained.contract:
        said = trained.contract[IMPORTED]["metadata"]
        return {key: said[key] for key in METADATA if key in said}
    student = {} if trained.student is None else {"student": trained.student}
    return {
        **student,
        "step": str(trained.step),
        "data_fingerprint": Fingerprint(**trained.contract["data_fingerprint"]).digest,
        "recipe": json.dumps(_recipe(config_of(trained)), sort_keys=True),
    }


def _recipe(config: Config) -> dict[str, Any]:
    """What the weights depend on, by dotted key, without the paths of this machine."""
    settings = binding(to_dict(config))
    return {key: value for key, value in settings.items() if key not in CHECKPOINT_KEYS}
