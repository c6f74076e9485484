"""A backbone for PyTorch: ``python -m dinojax.export_torch --checkpoint=runs/x --out=FILE``.

Writes the EMA teacher's backbone, or any other that `dinojax.backbones` opens, reads it back and
prints what became of every entry. Nothing is left of a file that does not read back as it was.

===============  ==================================================================================
``dinov3``       official names and layouts, with the constants that ``load_state_dict`` asks for;
``dinov2``       ``.safetensors``, or ``.pth`` where PyTorch is installed
``hf``           a folder for ``AutoModel`` and ``AutoImageProcessor`` of `transformers`
``timm``         a file for ``timm.create_model``, whose arguments are in the metadata
``safetensors``  names and layouts of the parameters here
``onnx``         a graph of any batch and image size, float32
===============  ==================================================================================

``--part=student`` is the student's backbone; ``--part=heads`` are the EMA teacher's heads and
``--part=optimizer`` Adam's moments, as tensors alone.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from dinojax import command, trees
from dinojax import mesh as meshes
from dinojax.backbones.open import open_backbone
from dinojax.backbones.opened import Opened, fingerprint_of_params
from dinojax.backbones.run import Trained
from dinojax.export.audit import Audit, checksum
from dinojax.export.formats import FORMATS, Leaving, check_format, read_back
from dinojax.export.safetensors_file import write_safetensors
from dinojax.export.staged import staged
from dinojax.export.tensor_file import SUFFIX, TensorFile
from dinojax.export.timm_model import timm_model
from dinojax.export_metadata import metadata_of
from dinojax.export_parts import (
    BACKBONES,
    HEADS,
    PARTS,
    STUDENT,
    TEACHER,
    of_run,
    read_heads,
    read_optimizer,
    read_student,
)
from dinojax.models.pixels import Pixels
from dinojax.runtime.exits import STOPS, leave

Told = dict[str, Any]


def export_torch(
    checkpoint: str, out: str, *, layout: str = "dinov3", part: str = TEACHER
) -> tuple[Audit, Told]:
    """Write a part of `checkpoint` to `out`; returns the audit and what was written.

    The audit is that of reading the file back, before it has its name, and it is clean.

    Args:
        checkpoint: as for `dinojax.backbones.open.open_backbone`.
        out: a file, or the folder of ``hf``.
        layout: one of `FORMATS`.
        part: one of `PARTS`.

    Raises:
        ValueError: a layout that this backbone does not have, a name that its files do not have, a
            part that the checkpoint lacks, or what is no backbone.
        FileNotFoundError: there is no such checkpoint.
        dinojax.runtime.errors.CheckpointError: it is damaged.
        RuntimeError: the file reads back as something else.
    """
    opened = open_backbone(checkpoint)
    if isinstance(opened.backbone, Pixels):
        raise ValueError(f"checkpoint={checkpoint!r} has no weights to write; name a backbone")
    if part not in PARTS:
        raise ValueError(f"--part={part} is unknown; use one of {', '.join(PARTS)}")
    if part in BACKBONES:
        return _export_backbone(opened, Path(out), layout, part)
    return _export_tensors(opened, Path(out), layout, part)


def _export_backbone(opened: Opened, out: Path, layout: str, part: str) -> tuple[Audit, Told]:
    backbone = opened.backbone
    assert not isinstance(backbone, Pixels)
    check_format(layout, backbone, opened.images, str(out))
    mesh = meshes.make_mesh(1, 1, devices=jax.local_devices()[:1])
    if part == STUDENT:
        params = read_student(of_run(opened, part), mesh)
        said = {"part": part, "checkpoint_fingerprint": fingerprint_of_params(params)}
    else:
        params = opened.read(mesh)
        known = isinstance(opened, Trained)  # by the digests of its checkpoint
        fingerprint = opened.fingerprint if known else fingerprint_of_params(params)
        said = {"checkpoint_fingerprint": fingerprint}
    told = {**metadata_of(opened, layout), **said}
    if layout == "timm":
        name, arguments = timm_model(backbone, opened.images)
        told |= {"timm_model": name, "timm_arguments": json.dumps(arguments)}
    leaving = Leaving(backbone, jax.device_get(params), opened.images, told)
    with staged(out) as path:
        FORMATS[layout](path, leaving)
        audit, size = read_back(layout, path, leaving), _bytes(path)
    count = trees.count(params)
    return audit, _written(out, layout, told, audit, parameters=count, bytes=size)


def _export_tensors(opened: Opened, out: Path, layout: str, part: str) -> tuple[Audit, Told]:
    trained = of_run(opened, part)
    layouts = ("dinov3", "dinov2", "safetensors") if part == HEADS else ("safetensors",)
    if layout not in layouts:
        raise ValueError(f"--part={part} is written as --format={' or '.join(layouts)}")
    if out.suffix != SUFFIX:
        raise ValueError(f"--out={out}: --part={part} writes a file whose name ends in {SUFFIX}")
    mesh = meshes.make_mesh(1, 1, devices=jax.local_devices()[:1])
    told = {**metadata_of(opened, layout), "part": part}
    if part == HEADS:
        tensors = read_heads(trained, mesh, official=layout != "safetensors")
    else:
        tensors, count = read_optimizer(trained, mesh)
        told["adam_count"] = str(count)
    with staged(out) as path:
        write_safetensors(path, tensors, told)
        audit, size = _compare(tensors, path), _bytes(path)
    values = sum(tensor.size for tensor in tensors.values())
    return audit, _written(out, layout, told, audit, values=values, bytes=size)


def _compare(tensors: Mapping[str, np.ndarray], path: Path) -> Audit:
    """Raises RuntimeError: the file has other tensors."""
    file, expected = TensorFile(path), checksum(tensors)
    if checksum(file) != expected:
        raise RuntimeError(f"{path.name} does not read back as it was; report this")
    return Audit(sorted(file), [], [], [], expected)


def _written(out: Path, layout: str, told: Mapping[str, str], audit: Audit, **more: int) -> Told:
    shown = ("part", "checkpoint_fingerprint", "timm_model", "timm_arguments")
    licences = {key: told[key] for key in told if key.startswith("licence")}
    return {
        "file": str(out),
        "format": layout,
        "tensors": len(audit.loaded),
        **more,
        **{key: told[key] for key in shown if key in told},
        **licences,
    }


def _bytes(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else path.parent.glob(f"{path.name}*")
    return sum(file.stat().st_size for file in files)


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        command.refuse(f"unknown arguments {list(argv[1:])}; options start with --")
    given = flags.FLAGS
    try:
        audit, told = export_torch(
            given.checkpoint, given.out, layout=given.format, part=given.part
        )
    except STOPS as error:
        print(f"dinojax.export_torch: {error}", file=sys.stderr)
        leave(error)
    if given.json:
        print(json.dumps({**asdict(audit), **told}))
    else:
        print(audit.summary())
        for name, value in told.items():
            print(f"{name:>22}  {value}")


if __name__ == "__main__":
    flags.DEFINE_string(
        "checkpoint",
        None,
        "RUN, RUN/checkpoints/STEP, RUN/snapshots/STEP, FILE.safetensors or random:ARCH.",
    )
    flags.DEFINE_string("out", None, "The file, or for --format=hf the folder, to write.")
    flags.DEFINE_enum("format", "dinov3", list(FORMATS), "Names and layouts of the tensors.")
    flags.DEFINE_enum("part", TEACHER, PARTS, "What of a run to write.")
    flags.DEFINE_bool("json", False, "Print one JSON object.")
    flags.mark_flags_as_required(["checkpoint", "out"])
    jax.config.update("jax_platforms", "cpu")  # the weights only pass through
    command.run(main)
