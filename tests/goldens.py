"""Reads the golden files: numbers computed with the reference implementations.

`DINOJAX_GOLDEN` names the directory (default ``tests/golden``). Tests take cases, options and
tolerances from its manifest and hard-code none, so that another set of cases runs unchanged.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(os.environ.get("DINOJAX_GOLDEN", Path(__file__).parent / "golden"))

NOT_COVERED_YET: tuple[str, ...] = ()
"""Prefixes of ``path`` or ``path:case`` whose code belongs to later stages; the only such list."""


def is_covered(case: str) -> bool:
    """Whether ``path`` or ``path:case`` belongs to what is built; tests skip what does not."""
    return not case.startswith(NOT_COVERED_YET)


@functools.cache
def manifest() -> dict[str, Any]:
    return json.loads((ROOT / "MANIFEST.json").read_text())


def files(prefix: str, suffix: str = "") -> list[str]:
    """Manifest paths that start with `prefix` and end with `suffix`, in manifest order."""
    return [p for p in manifest()["files"] if p.startswith(prefix) and p.endswith(suffix)]


def covered(prefix: str, suffix: str = "") -> list[str]:
    """Those of `files` that are not listed as `NOT_COVERED_YET`."""
    return [path for path in files(prefix, suffix) if is_covered(path)]


def entry(path: str) -> dict[str, Any]:
    return manifest()["files"][path]


def options(path: str) -> dict[str, Any]:
    return entry(path)["options"]


@functools.cache
def arrays(path: str) -> dict[str, np.ndarray]:
    if path.endswith(".safetensors"):
        return load_file(ROOT / path)
    with np.load(ROOT / path) as data:
        return dict(data)


def read_json(path: str) -> Any:
    return json.loads((ROOT / path).read_text())


def column(path: str, name: str, which: str) -> float:
    """One number of an array's manifest row, e.g. ``atol`` or ``atol_rms``."""
    row = entry(path)["arrays"][name]
    return row[manifest()["array_columns"].index(which)]


def children(path: str, prefix: str) -> dict[str, np.ndarray]:
    """Arrays below `prefix/`, with that prefix removed."""
    start = prefix.rstrip("/") + "/"
    return {k[len(start) :]: v for k, v in arrays(path).items() if k.startswith(start)}


def check(path: str, name: str, value: Any, *, atol: float | None = None) -> None:
    """Assert that `value` is within the manifest's tolerance (or `atol`) of the stored array."""
    expected = arrays(path)[name]
    value = np.asarray(value)
    assert value.shape == expected.shape, f"{path}:{name} {value.shape} != {expected.shape}"
    tolerance = column(path, name, "atol") if atol is None else atol
    error = np.abs(value.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0)
    assert error <= tolerance, f"{path}:{name} off by {error:.3g}, allowed {tolerance:.3g}"
