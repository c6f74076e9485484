"""Marks of tests that come in variants."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(kept: Iterable[str], names: Iterable[str]) -> list[Any]:
    """Parameters of which those `kept` run by default; the others are slow tests."""
    return [name if name in kept else pytest.param(name, marks=pytest.mark.slow) for name in names]
