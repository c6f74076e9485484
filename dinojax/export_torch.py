"""A backbone for PyTorch: ``python -m dinojax.export_torch --checkpoint=runs/x --out=FILE``.

Writes the EMA teacher's backbone as safetensors. ``--format=dinov3`` and ``dinov2`` have the
official names and layouts, with the constants that ``load_state_dict`` asks for; ``safetensors``
has the names and layouts that the parameters have here.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

import dinojax
from dinojax import mesh as meshes
from dinojax import trees
from dinojax.config import to_dict
from dinojax.data.check import Fingerprint
from dinojax.export.buffers import official_buffers
from dinojax.export.names import to_torch
from dinojax.export.safetensors_file import write_safetensors
from dinojax.initial_state import CHECKPOINT_KEYS
from dinojax.models.presets import Backbone
from dinojax.runtime.checkpoint import mute
from dinojax.runtime.contract import binding
from dinojax.runtime.exits import STOPS, leave
from dinojax.trained import Trained, open_trained
from dinojax.typing import Params

State = dict[str, np.ndarray]


def export_torch(checkpoint: str, out: str, *, layout: str = "dinov3") -> dict[str, Any]:
    """Write the backbone of `checkpoint` to the file `out` and return what was written.

    Args:
        checkpoint: as for `dinojax.trained.open_trained`.
        layout: one of `FORMATS`.

    Raises:
        ValueError: a layout that this backbone does not have, or no run's checkpoint.
        FileNotFoundError: there is no such checkpoint.
        dinojax.runtime.errors.CheckpointError: it is damaged.
    """
    trained = open_trained(checkpoint)
    check_format(layout, trained.backbone)
    params = jax.device_get(trained.read(meshes.make_mesh(1, 1, devices=jax.local_devices()[:1])))
    state = FORMATS[layout](trained.backbone, params)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(out, state, _metadata(trained, layout))
    return {
        "file": out,
        "format": layout,
        "tensors": len(state),
        "parameters": trees.count(params),
        "bytes": Path(out).stat().st_size,
        "checkpoint_fingerprint": trained.fingerprint,
    }


def check_format(layout: str, backbone: Backbone) -> None:
    """Raises ValueError: a layout that is unknown, or that this backbone does not have."""
    if layout not in FORMATS:
        raise ValueError(f"--format={layout} is unknown; use one of {', '.join(FORMATS)}")
    own = "dinov2" if getattr(backbone, "pos_embed_grid", None) is not None else "dinov3"
    if layout not in (own, "safetensors"):
        raise ValueError(
            f"--format={layout} cannot hold this backbone, which "
            f"{'has' if own == 'dinov2' else 'lacks'} DINOv2's position table; use --format={own}"
        )


def _official(backbone: Backbone, params: Params) -> State:
    state = to_torch(params)
    return {**state, **official_buffers(backbone, state)}


def _own(backbone: Backbone, params: Params) -> State:
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(params).items()}


FORMATS: dict[str, Callable[[Backbone, Params], State]] = {
    "dinov3": _official,
    "dinov2": _official,
    "safetensors": _own,
}


def _metadata(trained: Trained, layout: str) -> dict[str, str]:
    """What the weights are and where they come from; all that depends on nothing else."""
    student = {"student": trained.earlier.student} if trained.earlier.student else {}
    return {
        "format": "pt",  # what transformers asks of a file for PyTorch
        "layout": layout,
        "arch": trained.config.student.arch,
        **student,
        "step": str(trained.earlier.step),
        "checkpoint_fingerprint": trained.fingerprint,
        "data_fingerprint": Fingerprint(**trained.contract["data_fingerprint"]).digest,
        "recipe": json.dumps(_recipe(trained), sort_keys=True),
        "dinojax": dinojax.__version__,
    }


def _recipe(trained: Trained) -> dict[str, Any]:
    """What the weights depend on, by dotted key, without the paths of this machine."""
    settings = binding(to_dict(trained.config))
    return {key: value for key, value in settings.items() if key not in CHECKPOINT_KEYS}


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {list(argv[1:])}; options start with --")
    given = flags.FLAGS
    try:
        written = export_torch(given.checkpoint, given.out, layout=given.format)
    except STOPS as error:
        print(f"dinojax.export_torch: {error}", file=sys.stderr)
        leave(error)
    for name, value in written.items():
        print(f"{name:>22}  {value}")


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "RUN, RUN/checkpoints/STEP or RUN/snapshots/STEP.")
    flags.DEFINE_string("out", None, "The file to write.")
    flags.DEFINE_enum("format", "dinov3", list(FORMATS), "Names and layouts of the tensors.")
    flags.mark_flags_as_required(["checkpoint", "out"])
    jax.config.update("jax_platforms", "cpu")  # the weights only pass through
    mute()
    app.run(main)
