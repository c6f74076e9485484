"""From the word in a config to a source."""

import pytest
from images import write_folder, write_tar

from dinojax.data.folder import FolderSource
from dinojax.data.open import open_source
from dinojax.data.scenes import ScenesSource
from dinojax.data.tar import TarSource


def test_kinds(tmp_path):
    write_folder(tmp_path / "images", {"a.jpg": b"a"})
    write_tar(tmp_path / "images.tar", {"a.jpg": b"a"})
    assert isinstance(open_source(str(tmp_path / "images")), FolderSource)
    assert isinstance(open_source(str(tmp_path / "images.tar")), TarSource)
    scenes = open_source("scenes", num_images=5, image_px=32, split="test")
    assert isinstance(scenes, ScenesSource) and len(scenes) == 5 and scenes.image_px == 32


def test_errors(tmp_path):
    with pytest.raises(
        ValueError, match=r"source 'webdataset' is neither 'scenes', nor .*; use one"
    ):
        open_source("webdataset")
    with pytest.raises(FileNotFoundError, match=r"no.tar is not a file"):
        open_source(str(tmp_path / "no.tar"))
    write_tar(tmp_path / "x.tar.gz", {"a.jpg": b"a"}, "w:gz")
    with pytest.raises(ValueError, match=r"is compressed \(gzip\)"):
        open_source(str(tmp_path / "x.tar.gz"))
    with pytest.raises(ValueError, match=r"\['num_images'\] are options of 'scenes'; leave them"):
        open_source(str(tmp_path), num_images=5)
