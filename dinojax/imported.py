"""A backbone as if a run had kept it: a workdir with one snapshot, which every stage takes.

``init.from``, ``gram.teacher``, ``distillation.teacher``, ``dinojax.load`` and
``dinojax.evaluate`` read it like any other snapshot: split over any mesh, proven by its digests.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from dinojax.backbones.opened import Opened
from dinojax.config import Config, to_dict
from dinojax.config.backbone import StudentConfig
from dinojax.models.presets import FIELDS, Backbone, configured, get_preset
from dinojax.precision import get_precision
from dinojax.runtime.atomic import replace_text
from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.contract import FILE, versions
from dinojax.training.safety import SNAPSHOTS, teacher_part
from dinojax.typing import Params

IMPORTED = "imported"
"""The entry of the workdir's ``config.json`` that says where the weights are from."""
STEP = 0
NO_RECORDS = {"records": "0" * 32, "images": {}}
"""For the fingerprint of data that nobody knows."""


def write_imported(out: str, opened: Opened, params: Params, origin: dict[str, Any]) -> str:
    """Write the workdir `out` and return the path of its snapshot.

    Args:
        params: of `opened`, on any mesh.
        origin: what is known of the weights, as JSON.

    Raises:
        ValueError: `out` exists, or the backbone is none that a configuration can say.
        dinojax.runtime.errors.CheckpointError: it cannot be written.
    """
    workdir = Path(out)
    if workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"--out={out} is there already; name a new folder, or remove it")
    config = backbone_config(opened)
    with Checkpoints(workdir / SNAPSHOTS, every_steps=1) as snapshots:
        snapshots.save(STEP, teacher_part(params))
        snapshots.wait()
        path = snapshots.path(STEP)
    # Last: what has no contract is no workdir, and is refused.
    contract = {
        "config": to_dict(config),
        "data_fingerprint": NO_RECORDS,
        "history": [],
        "versions": versions(),
        IMPORTED: origin,
    }
    if jax.process_index() == 0:
        replace_text(workdir / FILE, json.dumps(contract, indent=2, sort_keys=True) + "\n")
    return path


def backbone_config(opened: Opened) -> Config:
    """The configuration of a run that would have trained this backbone; the rest are defaults.

    Its precision is float32: that in which files are computed with.

    Raises:
        ValueError: no configuration says this backbone.
    """
    backbone, preset = opened.backbone, get_preset(opened.arch)
    assert isinstance(backbone, Backbone)
    precision = get_precision("float32")
    plain, changes = preset.build(precision), {}
    for field in dataclasses.fields(StudentConfig):
        if field.name in FIELDS and hasattr(plain, field.name):
            value = getattr(backbone, field.name)
            if value != getattr(plain, field.name):
                changes[field.name] = value
    if changes.get("pos_embed_rope_base", 1) is None:
        changes["pos_embed_rope_base"] = 0.0  # as `configured` has it
    student = StudentConfig(arch=opened.arch, in_chans=opened.images.channels, **changes)
    if configured(dataclasses.asdict(student), precision) != backbone.clone(precision=precision):
        raise ValueError(f"{opened.name} is a backbone that no configuration can say: {backbone}")
    default = Config()
    crops = dataclasses.replace(
        default.crops,
        rgb_mean=tuple(map(float, opened.images.mean)),
        rgb_std=tuple(map(float, opened.images.std)),
    )
    return dataclasses.replace(
        default,
        student=student,
        crops=crops,
        train=dataclasses.replace(default.train, precision="float32"),
        knn=dataclasses.replace(default.knn, image_px=opened.images.image_px),
    )
