"""What the documentation names exists."""

import dataclasses
import re
from pathlib import Path

import pytest

from dinojax.config import Config

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "reference_behaviour.md").read_text()
CODE = re.findall(r"`([^`]+)`", TEXT)
SECTIONS = {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize("path", sorted({code for code in CODE if code.endswith(".py")}))
def test_files_and_their_names(path):
    file = ROOT / path if path.startswith("tests/") else ROOT / "dinojax" / path
    source = file.read_text()
    for names in re.findall(rf"`{re.escape(path)}`: ((?:`\w+`(?:, )?)+)", TEXT):
        for name in re.findall(r"\w+", names):
            assert re.search(rf"^(def|class) {name}\b|^{name} ?[:=]", source, re.M), name


@pytest.mark.parametrize("key", sorted({c for c in CODE if c.split(".")[0] in SECTIONS}))
def test_config_keys(key):
    if key.endswith(".py"):
        return
    node = Config()
    for name in key.partition("=")[0].split("."):
        node = getattr(node, name)


def test_the_checks_find_something():
    assert sum(code.endswith(".py") for code in CODE) > 20
    assert re.findall(r"`models/block.py`: ((?:`\w+`(?:, )?)+)", TEXT) == [
        "`kept_count`, `add_residual`"
    ]
