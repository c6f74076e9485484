"""`prepare` of grey images and of many channels: exact, described truthfully, and read by a run."""

import io
import shlex

import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import flags, logging
from images import as_npy, as_tiff, bands, encode, smooth, write_folder
from ml_collections import config_flags

from dinojax.config import default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.config.validation import validate
from dinojax.data.array_record import ArrayRecordSource
from dinojax.data.open import open_source
from dinojax.data.pipeline import sequential_batches
from dinojax.prepare import prepare, training_flags
from dinojax.training.data import open_data


def read_as_flags_say(said: str, image_px: int) -> np.ndarray:
    """All images of the source that a command line of `dinojax.train` names."""
    command, holder = ["train", *shlex.split(said)], flags.FlagValues()
    keys = shrink(default_config())
    keys.data.holdout = 0.5
    config_flags.DEFINE_config_dict("config", keys, flag_values=holder, sys_argv=command)
    holder(command)
    config = parse_config(keys)
    validate(config, batch_shards=1)
    source = open_source(config.data.source)
    assert 0 < len(open_data(config).source) < len(source)
    batches = sequential_batches(source, 4, keys.data.canvas_px, channels=config.student.in_chans)
    images = [batch["canvas"][:, :image_px, :image_px] for batch in batches]
    return np.concatenate(images)


class TestImages:
    @pytest.mark.parametrize("channels", [1, 2, 5])
    def test_arrays_come_back_bit_for_bit(self, tmp_path, channels):
        images = np.stack([np.roll(bands(16, 16, channels), i, 0) for i in range(8)])
        # One channel without an axis for it.
        np.save(tmp_path / "x.npy", images if channels > 1 else images[..., 0])
        out = str(tmp_path / "out")
        manifest = prepare(f"numpy:{tmp_path}/x.npy", out, channels=channels)
        pixels = images.reshape(-1, channels) / 255
        np.testing.assert_allclose(manifest.mean, pixels.mean(0), rtol=1e-9)
        np.testing.assert_allclose(manifest.std, pixels.std(0), rtol=1e-9)
        assert np.array_equal(read_as_flags_say(training_flags(out, manifest), 16), images)

    def test_files_stay_as_they_are(self, tmp_path):
        files = {"a.tif": as_tiff(bands(16, 9, 5)), "b.npy": as_npy(bands(9, 16, 5))}
        write_folder(tmp_path / "x", files)
        manifest = prepare(f"folder:{tmp_path}/x", str(tmp_path / "out"), channels=5)
        source = ArrayRecordSource(tmp_path / "out")
        assert [source[i].image for i in range(2)] == list(files.values())
        pixels = np.concatenate([bands(16, 9, 5).reshape(-1, 5), bands(9, 16, 5).reshape(-1, 5)])
        np.testing.assert_allclose(manifest.mean, pixels.mean(0) / 255, rtol=1e-9)

    def test_smaller_images_have_as_many(self, tmp_path):
        np.save(tmp_path / "x.npy", np.stack([bands(32, 32, 5)] * 4))
        prepare(f"numpy:{tmp_path}/x.npy", str(tmp_path / "out"), channels=5, max_side_px=16)
        stored = np.load(io.BytesIO(ArrayRecordSource(tmp_path / "out")[0].image))
        areas = bands(32, 32, 5).reshape(16, 2, 16, 2, 5).mean((1, 3))
        assert stored.shape == (16, 16, 5) and np.abs(stored - areas).max() <= 0.5

    def test_rgb_files_for_a_run_on_luminance(self, tmp_path):
        spec = f"folder:{write_folder(tmp_path / 'x', {'a.png': encode(smooth(20, 30), 'PNG')})}"
        grey = prepare(spec, str(tmp_path / "grey"), channels=1)
        colour = prepare(spec, str(tmp_path / "colour"))
        wanted = np.dot(colour.mean, [0.299, 0.587, 0.114])
        np.testing.assert_allclose(grey.mean, [wanted], atol=2e-3)

    def test_rgb_needs_no_flags_for_its_channels(self, tmp_path):
        manifest = prepare("scenes:4", str(tmp_path))
        assert training_flags("x", manifest) == "--config.data.source=array_record:x"


class TestOtherChannels:
    def test_a_source_fails_before_anything_is_written(self, tmp_path):
        np.save(tmp_path / "x.npy", np.zeros((3, 9, 9, 5), np.uint8))
        with pytest.raises(
            ValueError,
            match=r"none of 3 records tried can be read: record '00000000' holds uint8 \[9, 9, 5"
            r"\]: channels found: 5, wanted: 3; .*--channels=5",
        ):
            prepare(f"numpy:{tmp_path}/x.npy", str(tmp_path / "out"), shards=1, bad_budget=1.0)
        assert not (tmp_path / "out").exists()

    def test_a_record_is_named(self, tmp_path):
        files = {f"{i}.png": encode(smooth(9, 9), "PNG") for i in range(7)}
        files["scene.tif"] = as_tiff(bands(9, 9, 5))
        spec = f"folder:{write_folder(tmp_path / 'x', files)}"
        with pytest.raises(
            ValueError,
            match=r"1 records cannot be read, .*'scene.tif' .* found: 5, wanted: 3; .*--channels=5",
        ):
            prepare(spec, str(tmp_path / "out"))
        manifest = prepare(spec, str(tmp_path / "out"), bad_budget=0.2)
        assert manifest.records == 7 and manifest.skipped[0]["id"] == "scene.tif"


class TestTfdsMetadata:
    def test_of_grey_images(self, tmp_path):
        images = np.stack([bands(16, 12, 1) // (1 + i) for i in range(3)])
        np.save(tmp_path / "x.npy", images)
        prepare(f"numpy:{tmp_path}/x.npy", str(tmp_path / "out"), channels=1)
        builder = tfds.builder_from_directory(tmp_path / "out")
        assert builder.info.features["image"].shape == (None, None, 1)
        theirs = builder.as_data_source("train")
        assert np.array_equal(np.stack([theirs[i]["image"] for i in range(3)]), images)
        ours, same = open_source(f"tfds:{tmp_path}/out:train"), ArrayRecordSource(tmp_path / "out")
        assert [ours[i].image for i in range(3)] == [same[i].image for i in range(3)]

    @pytest.mark.parametrize(
        ("channels", "wrong", "files"),
        [
            (1, 1, {"a.png": encode(smooth(9, 9)[..., 0], "PNG"), "b.jpg": encode(smooth(9, 9))}),
            (3, 1, {"a.png": encode(smooth(9, 9), "PNG"), "b.npy": as_npy(smooth(9, 9))}),
            (5, 2, {"a.npy": as_npy(bands(9, 9, 5)), "b.tif": as_tiff(bands(9, 9, 5))}),
        ],
    )
    def test_none_where_it_would_be_wrong(self, tmp_path, monkeypatch, channels, wrong, files):
        said = []
        monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))
        write_folder(tmp_path / "x", files)
        prepare(f"folder:{tmp_path}/x", str(tmp_path / "out"), channels=channels)
        written = {path.name for path in (tmp_path / "out").iterdir()}
        assert "manifest.json" in written
        assert not {"dataset_info.json", "features.json"} & written
        assert len(said) == 1 and f"TFDS would read {wrong} of 2 images with" in said[0]
        assert len(ArrayRecordSource(tmp_path / "out")) == 2
