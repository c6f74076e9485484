"""Safetensors files read as views, and headers that lie: each refused with the tensor's name."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from dinojax.export.sharded_file import INDEX, ShardedFile
from dinojax.export.tensor_file import TensorFile

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4, dtype=np.float64),
    "c": np.arange(3).astype(ml_dtypes.bfloat16),
    "d": np.float16(2.5)[None][0:0],
    "e": np.arange(5, dtype=np.int8),
}


def test_every_entry(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, {"k": "ä"})
    file = TensorFile(path)
    assert file.keys() == TENSORS.keys() and file.metadata == {"k": "ä"}
    for name in "abcd":
        np.testing.assert_array_equal(file[name], TENSORS[name])
        assert file[name].dtype == TENSORS[name].dtype and file.shapes[name] == file[name].shape
        assert not file[name].flags.owndata and not file[name].flags.writeable
    file.release()
    np.testing.assert_array_equal(file["a"], TENSORS["a"])
    assert file.dtypes["e"] == "I8"
    with pytest.raises(ValueError, match=r"'e' in .*x\.safetensors is I8, not floating point"):
        file["e"]
    with pytest.raises(KeyError):
        file["f"]


def write(path, header, data=bytes(24)) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(dtype="F32", shape=(2, 3), offsets=(0, 24)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


LIES = {
    "no JSON": (b"{", "its header is no JSON"),
    "deep": (b"[" * 10_000, "its header is no JSON"),
    "long number": (b'{"a": ' + b"1" * 5000 + b"}", "its header is no JSON"),
    "a list": ([], "no table of tensors"),
    "twice": (b'{"a": 1, "a": 2}', "its header has 'a' twice"),
    "metadata": ({"__metadata__": {"k": 1}, "a": entry()}, "__metadata__ is no table of texts"),
    "dtype": ({"a": entry("X9")}, "tensor 'a' is described by"),
    "dtype as list": ({"a": {**entry(), "dtype": []}}, "tensor 'a' is described by"),
    "bytes": ({"a": entry("F64")}, r"tensor 'a' of F64\[2, 3\] has 48 bytes, and 24 are marked"),
    "shape": ({"a": entry(shape=(3, 3))}, r"'a' of F32\[3, 3\] has 36 bytes"),
    "negative": ({"a": entry(shape=(-2, -3))}, "tensor 'a' is described by"),
    "fraction": ({"a": entry(shape=(2.0, 3))}, "tensor 'a' is described by"),
    "flag": ({"a": entry(shape=(True, 6))}, "tensor 'a' is described by"),
    "text": ({"a": {**entry(offsets=(0, 4)), "shape": ""}}, "tensor 'a' is described by"),
    "beyond": ({"a": entry(offsets=(8, 32))}, "'a' should begin at byte 0 of the data, not 8"),
    "hole": ({"a": entry("F32", (2,), (0, 8)), "b": entry("F32", (2,), (16, 24))}, "'b' should"),
    "overlap": ({"a": entry(), "b": entry("F32", (2,), (0, 8))}, "'a' should begin at byte 8"),
    "left over": ({"a": entry("F32", (2,), (0, 8))}, "have 8 bytes and the file has 24 for them"),
    "huge": ({"a": entry(shape=(10**30, 3))}, r"'a' of F32\[10+, 3\] has 120+ bytes"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies(tmp_path, lie):
    path = tmp_path / "x.safetensors"
    write(path, LIES[lie][0])
    with pytest.raises(ValueError, match=rf"x\.safetensors is damaged.*{LIES[lie][1]}"):
        TensorFile(path)


@pytest.mark.parametrize("size", [0, 5, 8, 60, -1])
def test_a_truncated_file(tmp_path, size):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"x\.safetensors is damaged"):
        TensorFile(path)


@pytest.fixture
def shards(tmp_path):
    save_file({"a": TENSORS["a"]}, tmp_path / "1.safetensors", {"k": "v"})
    save_file({"b": TENSORS["b"]}, tmp_path / "2.safetensors")
    return tmp_path, {"a": "1.safetensors", "b": "2.safetensors"}


def sharded(folder, names) -> ShardedFile:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return ShardedFile(folder / INDEX)


def test_several_files(shards):
    file = sharded(*shards)
    for name in "ab":
        np.testing.assert_array_equal(file[name], TENSORS[name])
    assert file.shapes == {"a": (2, 3), "b": (4,)} and file.metadata == {"k": "v"}
    assert [path.rsplit("/", 1)[1] for path in file.paths] == ["1.safetensors", "2.safetensors"]
    file.release()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": "2.safetensors"}, "2.safetensors has no 'a', which .*index.json says"),
        ({"a": "../1.safetensors"}, "'../1.safetensors', which is not in its folder"),
        ({"c": "2.safetensors"}, "2.safetensors has no 'c'"),
        ({"a": "3.safetensors"}, "no file .*3.safetensors"),
    ],
)
def test_an_index_that_lies(shards, change, words):
    folder, names = shards
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        sharded(folder, names | change)


def test_what_the_index_does_not_say(shards):
    folder, names = shards
    save_file({"a": TENSORS["a"], "odd": TENSORS["b"]}, folder / "1.safetensors")
    with pytest.raises(ValueError, match=r"1\.safetensors has 'odd', which"):
        sharded(folder, names)
    for text in ("{", "[]", '{"weight_map": 3}'):
        (folder / INDEX).write_text(text)
        with pytest.raises(ValueError, match=r"index\.json is damaged"):
            ShardedFile(folder / INDEX)
