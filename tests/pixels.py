"""Pixels that two programs compute from the same choices."""

import os

import numpy as np

EXACT = "xla_cpu_use_fusion_emitters=false" not in os.environ.get("XLA_FLAGS", "")
"""Whether XLA rounds them alike, whatever program they are part of. Its older code generator, with
which tests compile (conftest.py), does not; ``XLA_FLAGS= pytest ...`` goes without it."""


def assert_same_pixels(actual: np.ndarray, desired: np.ndarray, err_msg: str = "") -> None:
    """Bit by bit, or to the last bits of normalised pixels."""
    atol = 0 if EXACT else 1e-5
    np.testing.assert_allclose(actual, desired, rtol=0, atol=atol, err_msg=err_msg)
