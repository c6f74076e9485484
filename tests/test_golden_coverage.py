"""Every golden file is either named by a test or listed as not covered yet."""

import ast
import re
from pathlib import Path

import goldens
import pytest

pytestmark = pytest.mark.golden

TESTS = Path(__file__).parent


def named_paths() -> set[str]:
    """String literals in tests, f-string heads included, that begin like a golden path."""
    areas = "|".join(sorted({path.split("/")[0] for path in goldens.manifest()["files"]}))
    literals = {
        node.value
        for path in TESTS.rglob("*.py")
        if path.name not in ("goldens.py", Path(__file__).name)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {text for text in literals if re.match(rf"({areas})/\S*$", text)}


def test_every_file_is_covered():
    named = tuple(named_paths())
    open_ = [p for p in goldens.files("") if goldens.is_covered(p) and not p.startswith(named)]
    assert not open_, f"no test reads {open_}"


def test_nothing_else_is_excluded():
    """And nothing here: all that was recorded is checked."""
    assert goldens.NOT_COVERED_YET == () and goldens.is_covered("dinov2/head.npz")
    elsewhere = [
        str(path)
        for path in TESTS.rglob("*.py")
        if path.name not in ("goldens.py", Path(__file__).name)
        if re.search(r"^NOT_COVERED", path.read_text(), re.M)
    ]
    assert not elsewhere
