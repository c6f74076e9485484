"""Files that the safetensors package reads, and whose bytes depend on their contents alone."""

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from dinojax.export.safetensors_file import write_safetensors


def test_read_by_the_package(tmp_path):
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "a": np.float64([0.1]),
        "big": np.arange(4, dtype=">f4"),
        "half": np.array([[1.5]], ml_dtypes.bfloat16),
        "scalar": np.float32(2.5)[None][0:0],
    }
    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors, {"k": "ä"})
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype.newbyteorder("=")
    with safe_open(path, "np") as file:
        assert file.metadata() == {"k": "ä"}
    before = path.read_bytes()
    write_safetensors(path, tensors, {"k": "ä"})
    assert path.read_bytes() == before


def test_a_refused_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="tensor 'a' is complex64"):
        write_safetensors(path, {"a": np.zeros(1, np.complex64)}, {})
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == [path.name]
