"""A backbone for PyTorch: ``python -m dinojax.export_torch --checkpoint=runs/x --out=FILE``.

Writes the EMA teacher's backbone, or any other that `dinojax.backbones` opens, as safetensors.
``--format=dinov3`` and ``dinov2`` have the official names and layouts, with the constants that
``load_state_dict`` asks for; ``safetensors`` has the names and layouts that the parameters have
here.
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
from dinojax.backbones.open import open_backbone
from dinojax.backbones.opened import Opened
from dinojax.backbones.run import Trained
from dinojax.config import Config, to_dict
from dinojax.data.check import Fingerprint
from dinojax.export.buffers import official_buffers
from dinojax.export.names import to_torch
from dinojax.export.safetensors_file import write_safetensors
from dinojax.initial_state import CHECKPOINT_KEYS
from dinojax.models.pixels import Pixels
from dinojax.models.presets import Backbone
from dinojax.runtime.checkpoint import mute
from dinojax.runtime.contract import binding
from dinojax.runtime.exits import STOPS, leave
from dinojax.students import config_of
from dinojax.typing import Params

State = dict[str, np.ndarray]


def export_torch(checkpoint: str, out: str, *, layout: str = "dinov3") -> dict[str, Any]:
    """Write the backbone of `checkpoint` to the file `out` and return what was written.

    Args:
        checkpoint: as for `dinojax.backbones.open.open_backbone`.
        layout: one of `FORMATS`.

    Raises:
        ValueError: a layout that this backbone does not have, or what is no backbone.
        FileNotFoundError: there is no such checkpoint.
        dinojax.runtime.errors.CheckpointError: it is damaged.
    """
    opened = open_backbone(checkpoint)
    backbone = opened.backbone
    if isinstance(backbone, Pixels):
        raise ValueError(f"checkpoint={checkpoint!r} has no weights to write; name a backbone")
    check_format(layout, backbone)
    params = jax.device_get(opened.read(meshes.make_mesh(1, 1, devices=jax.local_devices()[:1])))
    state = FORMATS[layout](backbone, params)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(out, state, _metadata(opened, layout))
    return {
        "file": out,
        "format": layout,
        "tensors": len(state),
        "parameters": trees.count(params),
        "bytes": Path(out).stat().st_size,
        "checkpoint_fingerprint": opened.fingerprint,
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


def _metadata(opened: Opened, layout: str) -> dict[str, str]:
    """What the weights are and where they come from; all that depends on nothing else."""
    return {
        "format": "pt",  # what transformers asks of a file for PyTorch
        "layout": layout,
        "arch": opened.arch,
        **opened.origin,
        **(_of_run(opened) if isinstance(opened, Trained) else {}),
        "checkpoint_fingerprint": opened.fingerprint,
        "rgb_mean": json.dumps(opened.images.mean),
        "rgb_std": json.dumps(opened.images.std),
        "image_px": str(opened.images.image_px),
        "dinojax": dinojax.__version__,
    }


def _of_run(trained: Trained) -> dict[str, str]:
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
    flags.DEFINE_string(
        "checkpoint",
        None,
        "RUN, RUN/checkpoints/STEP, RUN/snapshots/STEP, FILE.safetensors or random:ARCH.",
    )
    flags.DEFINE_string("out", None, "The file to write.")
    flags.DEFINE_enum("format", "dinov3", list(FORMATS), "Names and layouts of the tensors.")
    flags.mark_flags_as_required(["checkpoint", "out"])
    jax.config.update("jax_platforms", "cpu")  # the weights only pass through
    mute()
    app.run(main)
