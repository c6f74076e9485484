"""The snapshots of a run, scored: what ``python -m dinojax.show snapshots`` does.

A run with ``checkpoint.snapshot_every_steps`` keeps the EMA teacher's backbone now and then. Each
is scored once, on images that the run did not train on, and the scores are kept beside it.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from absl import logging

from dinojax import mesh as meshes
from dinojax.build.model import build_backbone
from dinojax.build.monitor import StateMonitor
from dinojax.build.step import build_init
from dinojax.config import Config
from dinojax.data.map_batches import find_classes
from dinojax.data.open import open_source
from dinojax.data.source import Source
from dinojax.data.subset import holdout
from dinojax.evaluation.dense_quality import DenseQuality
from dinojax.evaluation.features import make_dense_encoder
from dinojax.evaluation.monitor import evenly
from dinojax.evaluation.snapshot_scores import FILE, Snapshot, Table, read_table, write_table
from dinojax.precision import get_precision
from dinojax.runs import Run, open_run
from dinojax.runtime.checkpoint import abstract
from dinojax.runtime.stored_state import fingerprint, read_state
from dinojax.ssl.state import TrainState
from dinojax.training.safety import SNAPSHOTS, teacher_part
from dinojax.typing import Params

HELD_OUT = 0.3
"""Share of the images of another source that scores are taken on; the rest fits the head."""


@dataclass(frozen=True)
class Protocol:
    """What is scored on what. All of it is in `FILE`: other options, other scores."""

    source: str | None = None
    """Images as for data.source. None: those of the run, held out as in the run."""
    image_px: int | None = None
    """Side of the centre crops. None: knn.image_px of the run."""
    train_images: int = 1000
    """Most images that the linear head is fitted on, and most of the kNN bank."""
    held_out_images: int = 500
    """Most images that everything is scored on."""
    ignore: tuple[int, ...] = ()
    """Class numbers in the maps that are none, such as void."""
    ridge: float = 1e-3


def snapshot_paths(workdir: str | Path) -> dict[int, Path]:
    """Snapshots by step, ascending.

    Raises:
        FileNotFoundError: there are none.
    """
    folder = Path(workdir) / SNAPSHOTS
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    if not steps:
        raise FileNotFoundError(
            f"{folder} holds no snapshots; train with --config.checkpoint.snapshot_every_steps=1000"
        )
    return {step: folder / str(step) for step in steps}


def score_snapshots(
    workdir: str | Path,
    protocol: Protocol,
    tell: Callable[[Snapshot], None],
    by: str | None = None,
) -> Table:
    """Score what has no scores yet, and keep each result at once in ``WORKDIR/snapshots.json``.

    Scores under another protocol than `protocol` are replaced by new ones.

    Args:
        tell: called with each snapshot that was scored just now.
        by: the score that orders them, as in `Table`.

    Raises:
        FileNotFoundError: no run there, or no snapshots.
        ValueError: images that cannot be used, or an order by what is not known of them.
        dinojax.runtime.errors.CheckpointError: a damaged snapshot.
    """
    paths = snapshot_paths(workdir)
    run = open_run(workdir)
    if run.config.distillation.students:
        raise ValueError(
            f"{workdir} is of a run with several students, whose snapshots are not ranked; a stage "
            f"takes one of them by name, as in {paths[max(paths)]}#"
            f"{run.config.distillation.students[0][0]}"
        )
    protocol = dataclasses.replace(protocol, image_px=protocol.image_px or run.config.knn.image_px)
    wanted = json.loads(json.dumps(dataclasses.asdict(protocol)))
    before = read_table(workdir)
    if before is not None and before.protocol != wanted:
        logging.warning("%s has scores under other options; they are replaced", FILE)
        before = None
    found, todo = [], []
    for step, path in paths.items():
        known = None if before is None else before.of(step, fingerprint(path))
        if known is None:
            todo.append((step, path))
        else:
            found.append(known)
    table = Table(wanted, tuple(found), by)
    if todo:
        for snapshot in _scored(run, protocol, todo):
            found = sorted((*table.snapshots, snapshot))
            table = Table(wanted, tuple(found), by)
            write_table(workdir, table)
            tell(snapshot)
    else:
        write_table(workdir, table)  # without those whose snapshots are gone
    return table


def _scored(run: Run, protocol: Protocol, todo: list[tuple[int, Path]]) -> Iterator[Snapshot]:
    train, held_out = _images(run, protocol)
    mesh = meshes.make_mesh(1, -1)
    with jax.set_mesh(mesh):
        score = _make_score(run.config, protocol, train, held_out)
        state = jax.eval_shape(build_init(run.config))
        assert isinstance(state, TrainState)  # snapshots are of one student
        backbone = state.teacher["backbone"]
        wanted = teacher_part(abstract(backbone, meshes.shardings(mesh, backbone)))
        for step, path in todo:
            params = read_state(path, wanted, part=True)["teacher"]["backbone"]
            yield Snapshot(step, fingerprint(path), score(params))


def _images(run: Run, protocol: Protocol) -> tuple[Source, Source]:
    """(to fit on, to score on)."""
    if protocol.source is not None:
        train, held_out = holdout(open_source(protocol.source), HELD_OUT)
    else:
        train, held_out = run.data.bank, run.data.queries
    return evenly(train, protocol.train_images), evenly(held_out, protocol.held_out_images)


def _make_score(
    config: Config, protocol: Protocol, train: Source, held_out: Source
) -> Callable[[Params], dict[str, float]]:
    backbone = build_backbone(config, get_precision(config.train.precision))
    side, devices = protocol.image_px, jax.device_count()
    assert side is not None
    if side % backbone.stride or side < 2 * backbone.stride:
        above = max(-(-side // backbone.stride), 2) * backbone.stride
        raise ValueError(
            f"--image_px={side} is not a multiple of the {backbone.stride} px between patches, or "
            f"too small; use {above}"
        )
    classes = sorted({*find_classes(train), *find_classes(held_out)} - {*protocol.ignore})
    batch = -(-config.knn.batch_size // devices) * devices
    reading = {
        "batch": batch,
        "canvas_px": max(config.data.canvas_px, side),
        "read_timeout_s": config.data.read_timeout_s,
        "channels": config.student.in_chans,
    }
    encode = make_dense_encoder(
        backbone, image_px=side, mean=config.crops.rgb_mean, std=config.crops.rgb_std
    )
    dense = DenseQuality(
        encode,
        train,
        held_out,
        classes=classes,
        image_px=side,
        ridge=protocol.ridge,
        reading=reading,
    )
    knn = None
    if train.class_names is not None:
        like_dense = dataclasses.replace(config.knn, image_px=side, batch_size=batch)
        knn = StateMonitor(dataclasses.replace(config, knn=like_dense), train, held_out)

    def score(params: Params) -> dict[str, Any]:
        return dense(params) | ({} if knn is None else {"knn": knn.score(params)["knn"]})

    return score
