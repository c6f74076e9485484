"""The shipped recipes, as ``--config=configs/NAME.py:VARIANT`` gives them."""

import importlib.util
from pathlib import Path

import ml_collections

from dinojax.config import Config, parse_config

ROOT = Path(__file__).parent.parent


def recipe_dict(name: str) -> ml_collections.ConfigDict:
    """Of ``NAME`` or ``NAME:VARIANT``."""
    file, *variant = name.split(":", 1)
    spec = importlib.util.spec_from_file_location(file, ROOT / "configs" / f"{file}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*variant)


def recipe(name: str) -> Config:
    return parse_config(recipe_dict(name))
