"""The released models by the names that people know: ``dinov3_vits16``, or a release's file name.

Names and statistics are those of the official repositories' hub entries and READMEs.
"""

import difflib
import re
from pathlib import PurePath
from typing import Any, NamedTuple

from dinojax.backbones.opened import ImageFormat
from dinojax.models.presets import PRESETS

SATELLITE = ImageFormat((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))
"""Of SAT-493M."""
SATELLITE_MODELS = ("vitl16", "vit7b16")
UNRELEASED = ("vitso400m16", "vithuge2", "vitgiant2")
"""Presets that the training code builds and that nobody has released."""
_PATTERN = re.compile(
    r"(?P<system>dinov[23])_(?P<arch>vit[a-z0-9]+|convnext_[a-z]+)"
    r"(?P<registers>_reg4?)?(_pretrain)?(_(?P<data>lvd1689m|sat493m))?(-[0-9a-f]{8})?"
)


class Release(NamedTuple):
    """A released model: its preset, what differs from it, and what images it was trained on."""

    name: str
    preset: str
    changes: dict[str, Any] = {}  # noqa: RUF012 - never written to
    images: ImageFormat = ImageFormat()


def is_released_name(name: str) -> bool:
    """Whether it could be the name of a released model, known or not."""
    return name.startswith(("dinov2_", "dinov3_"))


def find_release(name: str) -> Release:
    """The model of a name like ``dinov2_vitb14_reg``, or of the name of a release's file.

    Raises:
        ValueError: no such model; names near ones.
    """
    plain = PurePath(name).name
    for suffix in (".safetensors", ".pth"):
        plain = plain.removesuffix(suffix)
    found = _PATTERN.fullmatch(plain)
    if found:
        system, registers, satellite = found["system"], found["registers"], found["data"]
        preset = found["arch"] + ("_reg" if registers else "")
        if satellite == "sat493m" and preset in SATELLITE_MODELS:
            # Both were trained with a norm of its own for the CLS of local crops; the 7B has it.
            changes = {"untie_global_and_local_cls_norm": True} if preset == "vitl16" else {}
            return Release(f"{system}_{preset}_sat493m", preset, changes, SATELLITE)
        known = preset in PRESETS and preset not in UNRELEASED
        if known and system == _system(preset) and satellite != "sat493m":
            return Release(f"{system}_{preset}", preset)
    near = difflib.get_close_matches(plain, RELEASES, n=3) or list(RELEASES)
    raise ValueError(f"{name!r} is no released model; use one of {', '.join(near)}")


def with_weights(name: str) -> str:
    """What to write instead of a preset's name alone, in words."""
    known = [one for one in RELEASES if find_release(one).preset == name]
    more = f", or the released {' or '.join(known)}" if known else ""
    return f"{name!r} is a preset without weights; use random:{name}{more}"


def _system(preset: str) -> str:
    return "dinov2" if preset.removesuffix("_reg").endswith("14") else "dinov3"


RELEASES = (
    *(f"{_system(preset)}_{preset}" for preset in PRESETS if preset not in UNRELEASED),
    *(f"dinov3_{preset}_sat493m" for preset in SATELLITE_MODELS),
)
"""Every name."""
