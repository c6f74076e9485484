"""A file is the old text or the new one, also if writing fails halfway."""

import os

import pytest

from dinojax.runtime.atomic import replace_text


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "file.txt"
    for text in ("one\n", "two: ä\n", ""):
        replace_text(path, text)
        assert path.read_bytes() == text.encode()
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_text(tmp_path, monkeypatch, step):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        replace_text(path, "new")
    assert path.read_text() == "old"


def test_the_bytes_are_on_disk_before_the_name_is(tmp_path, monkeypatch):
    path, order = tmp_path / "file.txt", []
    monkeypatch.setattr(os, "fsync", lambda _: order.append(path.exists()))
    replace_text(path, "new")
    assert order == [False] and path.read_text() == "new"
