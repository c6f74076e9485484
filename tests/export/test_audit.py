"""What an audit lets pass, and a checksum that follows values alone."""

import hashlib

import ml_dtypes
import numpy as np
import pytest

from dinojax.export.audit import Audit, checksum

NONE = {"loaded": ["a"], "reshaped": [], "missing": [], "unexpected": [], "checksum": "0"}


def test_only_what_is_allowed_by_name_may_be_missing_or_unexpected():
    assert Audit(**NONE).clean()
    assert Audit(**NONE | {"reshaped": ["a"]}).clean()
    audit = Audit(**NONE | {"missing": ["b"], "unexpected": ["c"]})
    assert audit.faults() == ["b", "c"] and not audit.clean()
    assert audit.faults(["c"]) == ["b"] and not audit.clean(["c"])
    assert audit.clean({"b", "c"})


def test_the_audit_in_words():
    audit = Audit(**NONE | {"missing": [f"blocks.{i}" for i in range(7)]})
    missing = audit.summary().splitlines()[2]
    assert missing.split("  ")[-1] == ", ".join(audit.missing[:5]) + " and 2 more"


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_checksum_is_of_values_not_of_memory():
    known = checksum({"b": X, "a": X[0]})
    written = (
        b'["a", "float32", [3]]\n' + X[0].tobytes() + b'["b", "float32", [2, 3]]\n' + X.tobytes()
    )
    assert known == hashlib.sha256(written).hexdigest()
    assert known == checksum({"a": X[0], "b": np.asfortranarray(X)})
    assert known == checksum({"a": X[0].astype(">f4"), "b": X})


@pytest.mark.parametrize(
    "other",
    [
        {"b": X},
        {"a": X.reshape(3, 2)},
        {"a": X.T.copy().reshape(2, 3)},
        {"a": X.astype(np.float64)},
        {"a": X.astype(ml_dtypes.bfloat16)},
        {"a": X, "b": X[:0]},
    ],
)
def test_every_difference_shows(other):
    assert checksum(other) != checksum({"a": X})
