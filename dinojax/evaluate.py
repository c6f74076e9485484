"""Score frozen features: ``python -m dinojax.evaluate --checkpoint=runs/x --tasks=knn``.

Reads the EMA teacher's backbone, evaluates it on held-out records and writes ``scores.json``: each
score with the hashes of its protocol and of the checkpoint.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags

from dinojax import mesh as meshes
from dinojax.build_model import build_backbone
from dinojax.config import Config
from dinojax.data.check import fingerprint
from dinojax.data.source import Source
from dinojax.precision import get_precision
from dinojax.runtime.atomic import replace_text
from dinojax.runtime.checkpoint import mute
from dinojax.runtime.exits import STOPS, leave
from dinojax.runtime.fingerprints import hash_text
from dinojax.tasks import TASKS, check_tasks
from dinojax.trained import open_trained
from dinojax.training_data import open_data

FILE = "scores.json"


def evaluate(
    checkpoint: str,
    tasks: Sequence[str],
    *,
    data: str | None = None,
    image_px: int | None = None,
    workdir: str | None = None,
) -> dict[str, Any]:
    """Score the EMA teacher of `checkpoint`; the result is what is written to ``scores.json``.

    Args:
        checkpoint: as for `dinojax.trained.open_trained`.
        tasks: names in `TASKS`.
        data: ``kind:path``, as data.source; None: the data of the run. Either way
            `data.holdout` of them are the queries.
        image_px: side of the images; None: knn.image_px of the run.
        workdir: where the file goes; None: to the run.

    Raises:
        ValueError: an unknown task, records without labels, no run's checkpoint.
        FileNotFoundError: there is no such checkpoint, or no such data.
        dinojax.runtime.errors.CheckpointError: it is damaged.
    """
    check_tasks(tasks)
    trained = open_trained(checkpoint)
    config = evaluated(trained.config, data, image_px)
    bank, queries = open_records(config)
    mesh = meshes.make_mesh(1, -1)
    scores, protocols = [], {}
    with jax.set_mesh(mesh):
        params = trained.read(mesh)
        for name in tasks:
            protocol = {"task": name, **TASKS[name].protocol(config)}
            digest = hash_text(json.dumps(protocol, sort_keys=True))
            protocols[digest] = protocol
            scores += [
                {
                    "task": name,
                    "metric": metric,
                    "value": value,
                    "spread": None,  # no seed is involved
                    "protocol_hash": digest,
                    "checkpoint_fingerprint": trained.fingerprint,
                }
                for metric, value in TASKS[name].run(config, params, bank, queries)
            ]
    found = {  # without paths: wherever it is done, the same evaluation is the same text
        "checkpoint_fingerprint": trained.fingerprint,
        "student": trained.earlier.student,
        "step": trained.earlier.step,
        "scores": scores,
        "protocols": protocols,
        "data": {
            part: {"records": len(source), "fingerprint": fingerprint(source).digest}
            for part, source in (("bank", bank), ("queries", queries))
        },
    }
    folder = Path(workdir or trained.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / FILE, json.dumps(found, indent=2) + "\n")
    return found


def evaluated(config: Config, data: str | None, image_px: int | None) -> Config:
    """A run's configuration with other records or another size to evaluate on.

    Raises:
        ValueError: a size that the backbone does not take.
    """
    if data is not None:
        section = dataclasses.replace(
            config.data,
            source=data,
            ids=None,
            mixture=(),
            homogeneous_source=None,
            homogeneous_share=0.0,
        )
        config = dataclasses.replace(config, data=section)
    if image_px is not None:
        config = dataclasses.replace(config, knn=dataclasses.replace(config.knn, image_px=image_px))
    stride = build_backbone(config, get_precision(config.train.precision)).stride
    if config.knn.image_px < stride or config.knn.image_px % stride:
        raise ValueError(
            f"--image_px={config.knn.image_px} is not a multiple of the {stride} px between "
            f"patches; use {-(-config.knn.image_px // stride) * stride}"
        )
    return config


def open_records(config: Config) -> tuple[Source, Source]:
    """(training, held-out) records with labels.

    Raises:
        ValueError: they have none.
        FileNotFoundError: no such data.
    """
    data = open_data(config)
    if data.bank.class_names is None:
        raise ValueError(
            f"data.source={config.data.source!r} has no labels to score features with; sort the "
            "images into a folder per class, or give others with --data"
        )
    return data.bank, data.queries


def table(found: dict[str, Any]) -> str:
    """The scores for people, and what they were measured by."""
    lines = [
        f"{score['task']:>16}  {score['metric']:<12} {score['value']:.4f}  "
        f"protocol {score['protocol_hash']}"
        for score in found["scores"]
    ]
    for digest, protocol in found["protocols"].items():
        lines.append(f"protocol {digest}: {json.dumps(protocol)}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {list(argv[1:])}; options start with --")
    given = flags.FLAGS
    try:
        found = evaluate(
            given.checkpoint,
            given.tasks,
            data=given.data,
            image_px=given.image_px,
            workdir=given.workdir,
        )
    except STOPS as error:
        print(f"dinojax.evaluate: {error}", file=sys.stderr)
        leave(error)
    print(table(found))


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "RUN, RUN/checkpoints/STEP or RUN/snapshots/STEP.")
    flags.DEFINE_list("tasks", ["knn"], f"What to score: {', '.join(TASKS)}.")
    flags.DEFINE_string("data", None, "Labelled records, kind:path; default: those of the run.")
    flags.DEFINE_integer("image_px", None, "Side of the images; default: knn.image_px of the run.")
    flags.DEFINE_string("workdir", None, f"Where {FILE} goes; default: to the run.")
    flags.mark_flag_as_required("checkpoint")
    mute()
    app.run(main)
