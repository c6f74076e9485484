"""Stored features: whole files, no work twice, nothing that belongs to other features."""

import io
import json
import os
import resource

import numpy as np
import pytest
from images import ArraySource

from dinojax.data.pipeline import sequential_batches
from dinojax.evaluation import feature_store
from dinojax.evaluation.feature_store import LABEL, PLACE, stored_rows

ABOUT = {"checkpoint": "1234", "image_px": 8}


class KilledError(Exception):
    pass


class Bad(ArraySource):
    """Every fifth record is unreadable."""

    def __getitem__(self, index):
        if index % 5 == 3:
            raise ValueError("no image")
        return super().__getitem__(index)


class Store:
    """An extraction of a source in shards of 10 records and batches of 4."""

    def __init__(self, folder, source=None, *, die_after=None):
        self.folder, self.source = folder, source or ArraySource(37)
        self.die_after, self.seen = die_after, []

    def __call__(self, about=ABOUT):
        def encode(batch, places):
            if self.die_after is not None and len(self.seen) >= self.die_after:
                raise KilledError
            self.seen += [place for place in places.tolist() if place >= 0]
            level = batch["canvas"][:, 0, 0, 0].astype(np.float32)
            return {"cls": np.stack([level, 2 * level], 1)[:, :, None]}

        def batches(source):
            return sequential_batches(source, 4, 8)

        return stored_rows(self.folder, about, self.source, batches, encode)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(feature_store, "SHARD", 10)


def levels(count=37):
    return [i % 255 + 1 for i in range(count)]


def test_rows_in_order(tmp_path):
    rows = Store(tmp_path)()
    assert len(rows) == 37 and rows.places.tolist() == list(range(37))
    assert rows.labels.tolist() == [i % 2 for i in range(37)]
    assert rows.column("cls", (0, 0)).tolist() == levels()
    assert rows.column("cls", -1)[:, 0].tolist() == [2 * level for level in levels()]
    taken = rows.take(np.array([36, 0, 19, 20, 0]))
    assert taken["cls"][:, 0, 0].tolist() == [37, 1, 20, 21, 1]
    assert taken["place"].tolist() == [36, 0, 19, 20, 0]


def test_the_second_time_nothing_is_extracted(tmp_path):
    first, second = Store(tmp_path), Store(tmp_path)
    before = first().column("cls")
    np.testing.assert_array_equal(second().column("cls"), before)
    assert len(first.seen) == 37 and not second.seen


def test_a_killed_extraction_goes_on(tmp_path):
    """Two files of ten are whole after 24 records; the other 17 records are read again."""
    killed = Store(tmp_path, die_after=24)
    with pytest.raises(KilledError):
        killed()
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.glob("*.npy")) == ["000000.npy", "000001.npy"]
    again = Store(tmp_path)
    assert again().column("cls", (0, 0)).tolist() == levels()
    assert again.seen == list(range(20, 37))


def test_files_missing_in_the_middle(tmp_path):
    Store(tmp_path)()
    (folder,) = tmp_path.iterdir()
    for name in ("000001.npy", "000003.npy"):
        (folder / name).unlink()
    again = Store(tmp_path)
    assert again().column("cls", (0, 0)).tolist() == levels()
    assert again.seen == [*range(10, 20), *range(30, 37)]


def test_other_features_have_another_folder(tmp_path):
    Store(tmp_path)()
    other = Store(tmp_path)
    other({**ABOUT, "image_px": 16})
    assert len(other.seen) == 37
    said = [json.loads((folder / "about.json").read_text()) for folder in tmp_path.iterdir()]
    assert sorted(one["image_px"] for one in said) == [8, 16]


def test_unreadable_records_have_no_row(tmp_path):
    rows = Store(tmp_path, Bad(37))()
    good = [i for i in range(37) if i % 5 != 3]
    assert rows.places.tolist() == good
    assert rows.take(np.arange(len(rows)))["cls"][:, 0, 0].tolist() == [i + 1 for i in good]


def test_nothing_can_be_read(tmp_path):
    class Empty(ArraySource):
        def __getitem__(self, index):
            raise ValueError("no image")

    with pytest.raises(ValueError, match="none of the 12 records can be read"):
        Store(tmp_path, Empty(12))()


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_damaged_file_is_named(tmp_path, kept):
    Store(tmp_path)()
    (folder,) = tmp_path.iterdir()
    path = folder / "000001.npy"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"000001.npy is damaged .*; delete it and run"):
        Store(tmp_path)()


def test_there_may_be_more_shards_than_open_files(tmp_path, monkeypatch):
    """37 files, of which a process may open 8 at once; all are read, in any order."""
    monkeypatch.setattr(feature_store, "SHARD", 1)
    Store(tmp_path)()
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 8, hard))
    try:
        rows = Store(tmp_path)()
        taken = rows.take(np.arange(37)[::-1])
        column = rows.column("cls", (0, 0))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert column.tolist() == levels() == taken["cls"][::-1, 0, 0].tolist()


def test_places_and_labels_are_read_without_the_features(tmp_path):
    """They lie together: the rows may be gone from the disk's cache, or as here be nonsense."""
    Store(tmp_path)()
    (folder,) = tmp_path.iterdir()
    for path in folder.glob("*.npy"):
        with path.open("rb") as file:
            heads = np.load(file)
            start = file.tell()
        assert heads.dtype.names == (PLACE, LABEL) and heads.dtype.itemsize == 12
        data = path.read_bytes()
        body = np.load(io.BytesIO(data[start:]))
        path.write_bytes(data[: -body.nbytes] + b"\xff" * body.nbytes)
    rows = Store(tmp_path)()
    assert rows.places.tolist() == list(range(37))
    assert rows.labels.tolist() == [i % 2 for i in range(37)]
