"""Score frozen features: ``python -m dinojax.evaluate --checkpoint=runs/x --tasks=knn,linear``.

Evaluates any backbone (`dinojax.backbones.open`) on held-out records and writes ``scores.json``,
each score with the hashes of its protocol and of the checkpoint, and a table of them for people,
``scores.md``. Features are kept in ``features/`` beside both, finished tasks and seeds in
``finished/``; what is there is not computed again, and an evaluation that dies loses only the rest.
On several hosts the same command runs once on each, and they divide the records among themselves.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from dinojax import command
from dinojax import mesh as meshes
from dinojax.backbones.open import open_backbone
from dinojax.backbones.opened import Opened
from dinojax.backbones.run import Trained
from dinojax.config import Config
from dinojax.config.evaluation import EvalConfig, ImagesConfig, parse_config
from dinojax.config.students import config_of
from dinojax.data.check import fingerprint, truth_digest
from dinojax.data.eval_records import EvalRecords, check_needs
from dinojax.eval_records import check_image_px, evaluated, open_eval_records
from dinojax.finished_scores import FinishedScores
from dinojax.runtime import cluster
from dinojax.runtime.agreement import agree, program
from dinojax.runtime.atomic import replace_text
from dinojax.runtime.exits import STOPS, exit_code, leave
from dinojax.runtime.fingerprints import hash_text
from dinojax.score_table import markdown
from dinojax.tasks.table import TASKS, check_tasks
from dinojax.tasks.task import Encoder, Evaluation, Preparation

FILE = "scores.json"
TABLE = "scores.md"
FEATURES = "features"
FINISHED = "finished"


def evaluate(
    checkpoint: str,
    tasks: Sequence[str] | None = None,
    *,
    data: str | None = None,
    image_px: int | None = None,
    workdir: str | None = None,
    options: EvalConfig = EvalConfig(),
) -> dict[str, Any]:
    """Score the backbone `checkpoint`; the result is what is written to ``scores.json``, the scores
    so far after every task.

    Of several processes all make this call. Each has the backbone on its own devices and extracts
    its part of the features that are stored; what is made of all of them, each computes alike, and
    the first one writes.

    Args:
        checkpoint: as for `dinojax.backbones.open.open_backbone`; of a run its EMA teacher.
        tasks: names in `TASKS`; None: those of `options`.
        data: ``kind:path``, as data.source, of which data.holdout are scored; with a layout its
            folder. None: the data of the run.
        image_px: side of the images; None: that of `options`, or knn.image_px of the run.
        workdir: where files go; None: to the run.
        options: protocols of the tasks, and what else a file of ``configs/eval`` states.

    Raises:
        ValueError: an unknown task, records that lack what it needs, a size that does not fit, or
            processes that differ in any of these.
        FileNotFoundError: there is no such checkpoint, or no such data.
        dinojax.runtime.errors.CheckpointError: it is damaged.
    """
    tasks = options.tasks if tasks is None else tasks
    check_tasks(tasks)
    asked = {"--checkpoint": checkpoint, "--tasks": list(tasks), "--image_px": image_px}
    agree("evaluation", program({**dataclasses.asdict(options), **asked}))
    opened = open_backbone(checkpoint)
    folder = Path(workdir or _workdir(opened))
    config = _config(opened, data, image_px or options.images.image_px)
    if any(TASKS[name].whole_patches for name in tasks):
        check_image_px(config.knn.image_px, opened.backbone.stride)
    videos = any("videos" in TASKS[name].needs for name in tasks)
    records = open_eval_records(config, options.records, data, videos=videos)
    for name in tasks:
        check_needs(records, TASKS[name].needs, name)
    mesh = meshes.make_mesh(1, -1, devices=jax.local_devices())
    found: dict[str, Any] = {  # no paths or times
        "checkpoint_fingerprint": opened.fingerprint,
        "arch": opened.arch,
        "student": opened.student if isinstance(opened, Trained) else None,
        "step": opened.step if isinstance(opened, Trained) else None,
        "scores": [],
        "protocols": {},
    }
    with jax.set_mesh(mesh):
        evaluation = _evaluation(opened, records, config, options.images, folder / FEATURES, mesh)
        agree("records", {f"{part} records": d for part, d in evaluation.fingerprints.items()})
        found["data"] = _data(evaluation)
        about = {
            "code": program({}),
            "checkpoint": opened.fingerprint,
            "data": found["data"],
        }
        for name in tasks:
            chosen = getattr(options, name)
            shared = TASKS[name].shared(evaluation)
            protocol = {"task": name, **shared, **dataclasses.asdict(chosen)}
            finished = FinishedScores(folder / FINISHED, {**about, "protocol": protocol})
            given = dataclasses.replace(evaluation, keep=finished.seed)
            scores = finished.scores(functools.partial(TASKS[name].run, chosen, given))
            digest = hash_text(json.dumps(protocol, sort_keys=True))
            hashes = {"protocol_hash": digest, "checkpoint_fingerprint": opened.fingerprint}
            found["protocols"][digest] = protocol
            found["scores"] += [{"task": name, **score._asdict(), **hashes} for score in scores]
            _write(folder, found, options)
    return json.loads(json.dumps(found))


def _write(folder: Path, found: dict[str, Any], options: EvalConfig) -> None:
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / FILE, json.dumps(found, indent=2) + "\n")
        replace_text(folder / TABLE, markdown(found, options.published))


def _data(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Number and fingerprint of the records of each part; of the test records with what else than
    their labels is right."""
    records, prints = evaluation.records, dict(evaluation.fingerprints)
    if records.accepted is not None or records.judged is not None:
        judged = [[part.tolist() for part in one] for one in records.judged or ()]
        truth = json.dumps([records.accepted, judged])
        prints["test"] = hash_text(f"{prints['test']} {truth}")
    return {
        part: {"records": len(source), "fingerprint": prints[part]}
        for part, source in (("train", records.train), ("test", records.test))
    }


def _workdir(opened: Opened) -> str:
    if isinstance(opened, Trained):
        return opened.workdir
    raise ValueError(f"--checkpoint={opened.name} is of no run; give --workdir=DIR for the scores")


def _config(opened: Opened, data: str | None, image_px: int | None) -> Config:
    """How images are read: the run's configuration, or the defaults where there is no run."""
    if isinstance(opened, Trained):
        return evaluated(config_of(opened), data, image_px)
    if data is None:
        raise ValueError(f"--checkpoint={opened.name} is of no run and has no data; give --data")
    return evaluated(Config(), data, image_px or opened.images.image_px)


def _evaluation(
    opened: Opened,
    records: EvalRecords,
    config: Config,
    images: ImagesConfig,
    features: Path,
    mesh: jax.sharding.Mesh,
) -> Evaluation:
    image_px = config.knn.image_px
    resize_px = images.resize_px or image_px
    if resize_px < image_px:
        raise ValueError(
            f"images.resize_px={resize_px} leaves no {image_px} px to cut out; use {image_px}"
        )
    if images.fit not in ("crop", "whole"):
        raise ValueError(f"images.fit={images.fit!r} is unknown; use 'crop' or 'whole'")
    timeout, shards = config.data.read_timeout_s, meshes.batch_shards(mesh)
    return Evaluation(
        Encoder(
            opened.fingerprint,
            opened.backbone,
            opened.read(mesh),
            opened.images.mean,
            opened.images.std,
        ),
        records,
        {
            part: hash_text(
                f"{fingerprint(source, read_timeout_s=timeout).digest} "
                f"{truth_digest(source, read_timeout_s=timeout)}"
            )
            for part, source in (("train", records.train), ("test", records.test))
        },
        Preparation(
            image_px,
            resize_px,
            images.fit,
            max(config.data.canvas_px, resize_px),
            -(-images.batch_size // shards) * shards,
            timeout,
            features,
        ),
    )


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        command.refuse(f"unknown arguments {list(argv[1:])}; options start with --")
    given = flags.FLAGS
    try:
        cluster.start(given.coordinator, given.num_processes, given.process_id)
        with cluster.together("dinojax.evaluate", exit_code):
            options = EvalConfig() if given.config is None else parse_config(given.config)
            found = evaluate(
                given.checkpoint,
                given.tasks,
                data=given.data,
                image_px=given.image_px,
                workdir=given.workdir,
                options=options,
            )
    except STOPS as error:
        print(f"dinojax.evaluate: {error}", file=sys.stderr)
        leave(error)
    if jax.process_index() == 0:
        print(markdown(found, options.published), end="")


if __name__ == "__main__":
    flags.DEFINE_string(
        "checkpoint", None, "RUN, RUN/checkpoints/STEP, FILE.safetensors, random:PRESET or pixels."
    )
    flags.DEFINE_list("tasks", None, f"What to score: {', '.join(TASKS)}; default: the config's.")
    flags.DEFINE_string("data", None, "Labelled records, kind:path; default: those of the run.")
    flags.DEFINE_integer("image_px", None, "Side of the images; default: knn.image_px of the run.")
    flags.DEFINE_string("workdir", None, f"Where {FILE} goes; default: to the run.")
    cluster.define_flags()
    config_flags.DEFINE_config_file("config", None, "Protocols, as configs/eval/in1k.py.")
    flags.mark_flag_as_required("checkpoint")
    command.run(main)
