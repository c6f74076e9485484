"""`verify` finds unreadable records before a run, `fingerprint` other data before a resume."""

import functools
import os

import numpy as np
import pytest
from absl import logging
from images import ArraySource, encode, smooth, write_folder, write_tar

from dinojax.data.arrays import NumpySource
from dinojax.data.check import fingerprint, truth_digest, verify
from dinojax.data.folder import FolderSource
from dinojax.data.listed import ListedFiles
from dinojax.data.records import Record
from dinojax.data.scenes import ScenesSource
from dinojax.data.subset import Subset
from dinojax.data.tar import TarSource
from dinojax.data.threads import StorageError

GOOD = encode(smooth(12, 12))


def folder(root, files):
    return FolderSource(write_folder(root, files))


def test_verify_counts_what_it_read(tmp_path):
    source = folder(tmp_path, {f"{i:02d}.jpg": GOOD for i in range(20)})
    assert verify(source, 16) == 20
    assert verify(source, 16, limit=7) == 7


def test_verify_samples_both_ends(tmp_path):
    for bad in (0, 19):
        files = {f"{i:02d}.jpg": b"junk" if i == bad else GOOD for i in range(20)}
        with pytest.raises(ValueError, match=rf"1 of 5 checked records .*'{bad:02d}.jpg'"):
            verify(folder(tmp_path / str(bad), files), 16, limit=5)


def test_verify_names_the_first_few(tmp_path):
    source = folder(tmp_path, {f"{i}.jpg": GOOD if i % 2 else GOOD[:-99] for i in range(10)})
    with pytest.raises(ValueError) as error:
        verify(source, 16)
    text = str(error.value)
    assert text.startswith("5 of 10 checked records cannot be read: record '0.jpg' cannot be")
    assert "'4.jpg'" in text and "'6.jpg'" not in text
    assert text.endswith("; ...; remove or replace them")


def test_verify_tolerates_a_share_and_logs_it(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    source = folder(tmp_path, {f"{i}.jpg": GOOD if i > 1 else b"junk" for i in range(10)})
    assert verify(source, 16, budget=0.2) == 10
    assert said[0].startswith("2 of 10 checked records cannot be read: record '0.jpg' cannot be")
    with pytest.raises(ValueError, match="2 of 10 checked records cannot be read"):
        verify(source, 16, budget=0.19)


def test_a_hanging_read_is_named(tmp_path):
    source = folder(tmp_path, {"a.jpg": GOOD, "b.jpg": GOOD})
    (tmp_path / "b.jpg").unlink()
    os.mkfifo(tmp_path / "b.jpg")
    for check in (fingerprint, functools.partial(verify, canvas_px=16)):
        with pytest.raises(StorageError, match=r"record 'b.jpg' could not be read within"):
            check(source, read_timeout_s=0.2)


def test_verify_reports_a_file_that_vanished(tmp_path):
    source = folder(tmp_path, {"a.jpg": GOOD, "b.jpg": GOOD})
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 checked records .*b.jpg"):
        verify(source, 16)


def test_verify_checks_the_shape_of_arrays():
    class Grey(ArraySource):
        def __getitem__(self, index):
            return Record(image=np.zeros((4, 4), np.uint8), id=self.record_id(index))

    assert verify(ArraySource(3), 16) == 3
    with pytest.raises(ValueError, match=r"record 'array/0' holds uint8 \[4, 4\]"):
        verify(Grey(3), 16)


def test_fingerprint_is_stable_and_independent_of_the_container(tmp_path):
    files = {"cat/a.jpg": b"one", "dog/b.jpg": b"two"}
    prints = [
        fingerprint(folder(tmp_path / "one", files)),
        fingerprint(folder(tmp_path / "two", dict(reversed(files.items())))),
        fingerprint(TarSource(write_tar(tmp_path / "x.tar", files))),
    ]
    images = {"cat/a.jpg": "34f2ddaa8b7615c9", "dog/b.jpg": "f5ee556c794a0703"}
    assert prints[0] == ("f9aaddc6bfa591b8764878c3c990d507", images)
    assert prints[0].digest == "5e479a9d1cec097c4fd5b4114a581d0e"
    assert prints[1:] == prints[:1] * 2


def test_fingerprint_of_a_file_that_cannot_be_read_is_that_of_an_empty_one(tmp_path):
    source = folder(tmp_path, {"a.jpg": b"1", "b.jpg": b""})
    before = fingerprint(source)
    (tmp_path / "b.jpg").unlink()
    assert fingerprint(source) == before


def test_fingerprint_notices_other_data(tmp_path):
    base = {"a.jpg": b"1", "b.jpg": b"22"}
    variants = [
        base,
        {"a.jpg": b"1"},
        {"a.jpg": b"1", "c.jpg": b"22"},
        {"a.jpg": b"3", "b.jpg": b"22"},
    ]
    variants.append({"a.jpg": b"12", "b.jpg": b"2"})
    prints = [fingerprint(folder(tmp_path / str(i), files)) for i, files in enumerate(variants)]
    source = ArraySource(100)
    prints += [fingerprint(ArraySource(100)), fingerprint(ArraySource(101))]
    prints += [
        fingerprint(Subset(source, range(99))),
        fingerprint(Subset(source, range(99, -1, -1))),
    ]
    assert len({found.digest for found in prints}) == len(prints)
    base, *_, renamed, changed, moved = prints[:5]
    # Which part of it says what has changed.
    assert renamed.records != base.records and renamed.images["a.jpg"] == base.images["a.jpg"]
    assert changed.records == moved.records == base.records
    assert changed.images == {**base.images, "a.jpg": changed.images["a.jpg"]}


class Read:
    """A source that knows its labels only with its records."""

    def __init__(self, source):
        self.source, self.class_names, self.read = source, source.class_names, []

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.read.append(index)
        return self.source[index]

    def record_id(self, index):
        return self.source.record_id(index)


def arrays(path, count=100, **changes) -> NumpySource:
    given = {
        "images": np.zeros((count, 4, 4, 3), np.uint8),
        "labels": np.arange(count) % 3,
        "segmentation": np.zeros((count, 4, 4), np.uint8),
    }
    np.savez(path, **(given | changes))
    return NumpySource(path)


def test_truth_is_every_label(tmp_path):
    """Whatever the place, and whether the source knows it or its records do."""
    path = tmp_path / "x.npz"
    base, found = np.arange(100) % 3, []
    for place in range(-1, 100):
        labels = base.copy()
        labels[place] += place >= 0
        source = arrays(path, labels=labels, class_names=np.array(list("abcd")))
        found.append(truth_digest(source))
        if place < 2:
            assert truth_digest(Read(source)) == found[-1]
    assert len(set(found)) == 101


def test_truth_is_class_names_and_maps(tmp_path):
    path = tmp_path / "x.npz"
    maps = np.zeros((100, 4, 4), np.uint8)
    maps[99, 1, 1] = 1
    found = [
        truth_digest(arrays(path)),
        truth_digest(arrays(path, class_names=np.array(["a", "b", "c"]))),
        truth_digest(arrays(path, segmentation=maps)),
        truth_digest(arrays(path, segmentation=np.zeros((100, 4, 4), np.int32))),
        truth_digest(arrays(path, depth=np.zeros((100, 4, 4), np.float32))),
        truth_digest(arrays(path, images=np.ones((100, 4, 4, 3), np.uint8))),
    ]
    assert len(set(found)) == 5 and found[0] == found[5]


def test_truth_of_all_records_is_read_only_where_it_has_to(tmp_path):
    labelled, plain = Read(ArraySource(100)), Read(ArraySource(100))
    plain.class_names = None
    for source, count in ((labelled, 100), (plain, 64)):
        truth_digest(source)
        assert len(source.read) == len(set(source.read)) == count


def test_known_labels_are_those_of_the_records(tmp_path):
    files = {"cat/a.jpg": GOOD, "dog/b.jpg": GOOD, "c.jpg": GOOD}
    known = folder(tmp_path / "x", files)
    sources = [
        *(known, Subset(known, [2, 0]), TarSource(write_tar(tmp_path / "x.tar", files))),
        ListedFiles(tmp_path / "x", ["dog/b.jpg", "cat/a.jpg"], [1, 0], ["cat", "dog"]),
        *(arrays(tmp_path / "x.npz"), ScenesSource(40, image_px=32)),
    ]
    for source in sources:
        read = [source[i].label for i in range(len(source))]
        assert source.known_labels.tolist() == [-1 if one is None else one for one in read]
    assert Subset(ArraySource(3), [0]).known_labels is None
    assert ListedFiles(tmp_path / "x", ["c.jpg"]).known_labels is None
