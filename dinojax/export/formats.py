"""Every format that a backbone leaves in, and how what was written is read again."""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dinojax import trees
from dinojax.backbones.opened import ImageFormat
from dinojax.export.audit import Audit, checksum
from dinojax.export.buffers import official_buffers
from dinojax.export.hf_card import model_card
from dinojax.export.hf_config import hf_config, hf_preprocessor
from dinojax.export.hf_names import to_hf
from dinojax.export.incoming import Incoming
from dinojax.export.names import to_torch
from dinojax.export.onnx_file import write_onnx
from dinojax.export.onnx_graph import import_onnx
from dinojax.export.safetensors_file import write_safetensors
from dinojax.export.timm_model import timm_model
from dinojax.export.timm_names import to_timm
from dinojax.export.weights import FOLDER_FILE, open_weights
from dinojax.models.presets import Backbone
from dinojax.runtime.atomic import replace_text
from dinojax.typing import Params

State = dict[str, np.ndarray]
PTH = ".pth"
OFFICIAL = ("dinov3", "dinov2")
SUFFIXES = {
    "dinov3": (".safetensors", PTH),
    "dinov2": (".safetensors", PTH),
    "timm": (".safetensors",),
    "safetensors": (".safetensors",),
    "onnx": (".onnx",),
}
"""How names of the files of a format end; ``hf`` is a folder."""


@dataclass(frozen=True)
class Leaving:
    """A backbone on its way out.

    Attributes:
        params: on this host.
        metadata: what is said of it in the file.
    """

    backbone: Backbone
    params: Params
    images: ImageFormat
    metadata: Mapping[str, str]

    @cached_property
    def state(self) -> State:
        """The parameters in the official layout."""
        return to_torch(self.params)

    @cached_property
    def official(self) -> State:
        """With the constants that ``load_state_dict`` asks for."""
        return {**self.state, **official_buffers(self.backbone, self.state)}

    def said(self, **more: str) -> dict[str, str]:
        """`metadata` with more, and the key by which transformers knows a file for PyTorch."""
        return {"format": "pt", **self.metadata, **more}


def check_format(
    layout: str, backbone: Backbone, images: ImageFormat | None = None, out: str | None = None
) -> None:
    """Whether a format can hold a backbone, and `out` can be the name of it.

    Raises:
        ValueError: it cannot; or a package is missing that writes it.
    """
    if layout not in FORMATS:
        raise ValueError(f"--format={layout} is unknown; use one of {', '.join(FORMATS)}")
    own = "dinov2" if getattr(backbone, "pos_embed_grid", None) is not None else "dinov3"
    if layout in OFFICIAL and layout != own:
        raise ValueError(
            f"--format={layout} cannot hold this backbone, which "
            f"{'has' if own == 'dinov2' else 'lacks'} DINOv2's position table; use --format={own}"
        )
    images = images or ImageFormat()
    if layout == "hf":
        hf_config(backbone, images)
    if layout == "timm":
        timm_model(backbone, images)
    if layout == "onnx":
        import_onnx()
    if out is not None:
        check_name(layout, Path(out))


def check_name(layout: str, out: Path) -> None:
    """Raises ValueError: a name that files of this format do not have, or no torch for it."""
    suffixes = SUFFIXES.get(layout)
    if suffixes is None and (out.suffix in (".safetensors", PTH, ".onnx") or out.is_file()):
        raise ValueError(f"--out={out}: --format={layout} writes a folder; name one")
    if suffixes is not None and out.suffix not in suffixes:
        raise ValueError(
            f"--out={out}: --format={layout} writes a file whose name ends in "
            f"{' or '.join(suffixes)}"
        )
    if out.suffix == PTH:
        _import_torch()


def read_back(layout: str, path: Path, leaving: Leaving) -> Audit:
    """What became of every entry; all of them are in `path`, bit for bit, and no others.

    Raises:
        RuntimeError: they are not.
    """
    try:
        weights = open_weights(str(path), allow_pth=True)
        audit = Incoming(weights, leaving.params).audit()
        constants = leaving.official.keys() - leaving.state.keys() if layout in OFFICIAL else ()
        same = all(np.array_equal(weights[key], leaving.official[key]) for key in constants)
        fault = f"missing or left over: {audit.faults() or 'nothing, but other values'}"
    except ValueError as error:
        raise _unlike(layout, str(error)) from error
    if not (same and audit.clean() and audit.checksum == checksum(_wide(leaving.state))):
        raise _unlike(layout, fault)
    return audit


def _unlike(layout: str, fault: str) -> RuntimeError:
    return RuntimeError(
        f"--format={layout}: what was written does not read back as it was ({fault}); nothing is "
        "left of it. Report this with the command"
    )


def _wide(state: Mapping[str, np.ndarray]) -> State:
    """At least float32, as checksums are taken."""
    return {
        name: value.astype(np.promote_types(value.dtype, np.float32), copy=False)
        for name, value in state.items()
    }


def _write_official(path: Path, leaving: Leaving) -> None:
    if path.suffix == PTH:
        torch = _import_torch()
        tensors = {name: torch.from_numpy(value.copy()) for name, value in leaving.official.items()}
        torch.save(tensors, path)
    else:
        write_safetensors(path, leaving.official, leaving.said())


def _write_own(path: Path, leaving: Leaving) -> None:
    leaves = trees.flatten(leaving.params)
    own = {name: np.ascontiguousarray(leaf) for name, leaf in leaves.items()}
    write_safetensors(path, own, leaving.said())


def _write_hf(path: Path, leaving: Leaving) -> None:
    path.mkdir()
    config = hf_config(leaving.backbone, leaving.images)
    preprocessor = hf_preprocessor(leaving.backbone, leaving.images)
    for name, contents in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        replace_text(path / name, json.dumps(contents, indent=2) + "\n")
    card = model_card(leaving.backbone, leaving.images, leaving.metadata)
    replace_text(path / "README.md", card)
    out = to_hf(leaving.backbone, leaving.state)
    write_safetensors(path / FOLDER_FILE, out.tensors, leaving.said(**out.header()))


def _write_timm(path: Path, leaving: Leaving) -> None:
    out = to_timm(leaving.backbone, leaving.state)
    write_safetensors(path, out.tensors, leaving.said(**out.header()))


def _write_onnx(path: Path, leaving: Leaving) -> None:
    channels = leaving.images.channels
    write_onnx(path, leaving.backbone, leaving.state, channels, leaving.metadata)


FORMATS: dict[str, Callable[[Path, Leaving], None]] = {
    "dinov3": _write_official,
    "dinov2": _write_official,
    "hf": _write_hf,
    "timm": _write_timm,
    "safetensors": _write_own,
    "onnx": _write_onnx,
}


def _import_torch():
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"files that end in {PTH} need PyTorch: pip install torch; a .safetensors file needs "
            "nothing, and torch reads it by safetensors.torch.load_file"
        ) from error
