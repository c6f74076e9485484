"""Small backbones as presets, for tests of what takes a model by its name."""

import jax
import pytest

from dinojax.backbones.model import Model
from dinojax.backbones.open import open_backbone
from dinojax.mesh import make_mesh
from dinojax.models.presets import PRESETS, Preset

SIZES = {"embed_dim": 64, "depth": 2, "num_heads": 2}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}
SMALL = {
    "small16": Preset({**PRESETS["vits16"].model, **SIZES}, 0),
    "small14": Preset({**PRESETS["vits14"].model, **SIZES}, 0),
    "small14_reg": Preset({**PRESETS["vits14_reg"].model, **SIZES}, 0),
    "convnext_small_one": Preset(CONVNEXT, 0, PRESETS["convnext_tiny"].backbone),
}


def add_presets(patch: pytest.MonkeyPatch) -> None:
    for name, preset in SMALL.items():
        patch.setitem(PRESETS, name, preset)


def small_model(name: str) -> Model:
    """On one device, which compiles sooner."""
    return Model.read(open_backbone(name), make_mesh(1, 1, devices=jax.devices()[:1]))
