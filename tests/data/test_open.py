"""From the words in a config to a source."""

import builtins
import re

import pytest
from images import write_folder, write_tar

from dinojax.data.folder import FolderSource
from dinojax.data.open import EXAMPLES, open_source
from dinojax.data.scenes import ScenesSource
from dinojax.data.tar import TarSource


def test_kinds(tmp_path):
    folder = write_folder(tmp_path / "images", {"a.jpg": b"a"})
    tar = write_tar(tmp_path / "images.tar", {"a.jpg": b"a"})
    for spec, kind in (
        (f"{folder}", FolderSource),
        (f"folder:{folder}", FolderSource),
        (f"{tar}", TarSource),
        (f"tar:{tar}", TarSource),
        (f"tar:{tmp_path}/*.tar", TarSource),
    ):
        assert isinstance(open_source(spec), kind)
    scenes = open_source("scenes", num_images=5, image_px=32, split="test")
    assert isinstance(scenes, ScenesSource) and len(scenes) == 5 and scenes.image_px == 32
    assert len(open_source("scenes:7", image_px=32)) == 7


def test_ids_of_any_kind(tmp_path):
    folder = write_folder(tmp_path / "images", {"a.jpg": b"a", "b.jpg": b"b"})
    (tmp_path / "ids.txt").write_text("b.jpg\na.jpg\nb.jpg\n")
    source = open_source(f"ids:{tmp_path}/ids.txt:folder:{folder}")
    assert [source.record_id(i) for i in range(3)] == ["b.jpg", "a.jpg", "b.jpg"]
    (tmp_path / "ids.txt").write_text("scenes/test/000003")
    options = {"num_images": 5, "image_px": 32, "split": "test"}
    assert len(open_source(f"ids:{tmp_path}/ids.txt:scenes", **options)) == 1
    with pytest.raises(ValueError, match=r"1 of 1 listed ids are not in the source of 2 records"):
        open_source(f"ids:{tmp_path}/ids.txt:{folder}")


def test_a_bare_folder_may_have_a_colon(tmp_path):
    folder = write_folder(tmp_path / "tar:x", {"a.jpg": b"a"})
    assert len(open_source(str(folder))) == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("webdataset", r"source 'webdataset' is neither 'scenes', nor .*; use one"),
        ("zip:/x", r"source 'zip:/x' is neither .* of a known kind; use one, e.g. folder:"),
        ("parquet:", r"source 'parquet:' lacks a path; write e.g. parquet:/data/"),
        ("ids:/x.txt", r"'ids:/x.txt' lacks a file or a source; write e.g. ids:/data/"),
        ("scenes:many", r"source 'scenes:many' names no number of images; use scenes:4096"),
        ("array_record:gs://bucket/x", r"'array_record:gs://bucket/x' is a remote address; mount"),
        ("https://host/x.tar", r"is a remote address; mount or copy it"),
    ],
)
def test_specs_that_name_nothing(spec, words):
    with pytest.raises(ValueError, match=words):
        open_source(spec)


@pytest.mark.parametrize("kind", sorted(EXAMPLES.keys() - {"scenes", "tfds", "ids"}))
def test_missing_files(kind, tmp_path):
    for path in (f"{tmp_path}/nowhere", f"{tmp_path}/nowhere-*"):
        with pytest.raises(FileNotFoundError, match=rf"{re.escape(path)} .*; give "):
            open_source(f"{kind}:{path}")


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no.tar is not a file"):
        open_source(str(tmp_path / "no.tar"))
    write_tar(tmp_path / "x.tar.gz", {"a.jpg": b"a"}, "w:gz")
    with pytest.raises(ValueError, match=r"is compressed \(gzip\)"):
        open_source(str(tmp_path / "x.tar.gz"))
    with pytest.raises(ValueError, match=r"\['num_images'\] are options of 'scenes'; leave them"):
        open_source(str(tmp_path), num_images=5)


def test_missing_package(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args):
        if name == "dinojax.data.parquet":
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"'parquet:x' needs the package pyarrow; install it"):
        open_source("parquet:x")
