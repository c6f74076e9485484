"""`prepare`: what it writes, that it can be killed at any time, and what it refuses."""

import errno
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from datasets import CLASSES, COUNT, files, write_shards
from images import encode, smooth, write_folder, write_tar

from dinojax import prepare as app
from dinojax import prepare_folder
from dinojax.data import reading
from dinojax.data.array_record import ArrayRecordSource
from dinojax.data.check import fingerprint
from dinojax.data.folder import FolderSource
from dinojax.data.manifest import MANIFEST, PARTS
from dinojax.data.open import open_source
from dinojax.data.threads import StorageError
from dinojax.prepare import prepare
from dinojax.runtime import exits
from dinojax.runtime.lock import FILE as LOCK
from dinojax.runtime.lock import locked


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def photos(root: Path, count: int = 7, side: int = 40) -> str:
    """A folder of JPEGs of growing size, one in three of them without a class."""
    names = [f"{'dog/' if i % 3 else ''}{i:02d}.jpg" for i in range(count)]
    images = {name: encode(smooth(side + i, 2 * side)) for i, name in enumerate(names)}
    return f"folder:{write_folder(root, images)}"


class TestResult:
    def test_manifest(self, tmp_path):
        spec = photos(tmp_path / "x")
        manifest = prepare(spec, str(tmp_path / "out"), shards=3, max_side_px=80)
        assert json.loads((tmp_path / "out" / MANIFEST).read_text()) == json.loads(
            manifest.to_json()
        )
        assert (manifest.source, manifest.records, manifest.class_names) == (spec, 7, ["dog"])
        assert manifest.fingerprint == fingerprint(open_source(spec)).digest
        options = {"max_side_px": 80, "quality": 95, "channels": 3, "shards": 3}
        assert manifest.options == options
        assert manifest.skipped == [] and manifest.reencoded == 0
        assert [shard.records for shard in manifest.shards] == [2, 2, 3]
        for shard in manifest.shards:
            data = (tmp_path / "out" / shard.name).read_bytes()
            assert shard.bytes == len(data)
            assert shard.sha256 == hashlib.sha256(data).hexdigest()
        assert manifest.bytes == sum(shard.bytes for shard in manifest.shards)

    def test_statistics_are_those_of_the_stored_pixels(self, tmp_path):
        manifest = prepare(photos(tmp_path / "x"), str(tmp_path / "out"), max_side_px=50)
        assert manifest.reencoded == 7
        prepared = prepare(f"array_record:{tmp_path / 'out'}", str(tmp_path / "again"))
        np.testing.assert_allclose(prepared.mean, manifest.mean, atol=2e-3)  # JPEG in between
        np.testing.assert_allclose(prepared.std, manifest.std, atol=2e-3)
        images = np.concatenate([smooth(40 + i, 80).reshape(-1, 3) for i in range(7)]) / 255
        np.testing.assert_allclose(manifest.mean, images.mean(0), atol=0.01)

    def test_records_are_the_source_s(self, tmp_path):
        spec = photos(tmp_path / "x")
        prepare(spec, str(tmp_path / "out"), shards=2)
        before, after = open_source(spec), ArrayRecordSource(tmp_path / "out")
        assert [before[i] for i in range(7)] == [after[i] for i in range(7)]
        assert fingerprint(before) == fingerprint(after) and after.class_names == ["dog"]
        index = pq.read_table(tmp_path / "out" / "index.parquet").to_pydict()
        assert index["id"] == [before.record_id(i) for i in range(7)]
        assert index["label"] == [-1, -1, -1, 0, 0, 0, 0]

    def test_tfds_reads_it(self, tmp_path):
        prepare(f"tar:{write_tar(tmp_path / 'x.tar', files())}", str(tmp_path / "out"), shards=2)
        builder = tfds.builder_from_directory(tmp_path / "out")
        source = builder.as_data_source("train")
        assert len(source) == COUNT and builder.info.features["label"].names == CLASSES
        for index, i in enumerate([0, 2, 4, 1, 3, 5]):
            item = source[index]
            assert item["id"].decode() == f"{CLASSES[i % 2]}/{i}.png" and item["label"] == i % 2
            assert np.all(item["image"] == 20 * i)
            assert np.all(item["segmentation"] == i) and item["segmentation"].shape == (12, 10, 1)
            assert np.all(item["depth"] == i + 0.5) and item["depth"].dtype == np.float32

    def test_labels_without_names(self, tmp_path):
        write_shards(tmp_path / "shards")
        prepare(f"tar:{tmp_path}/shards/*.tar", str(tmp_path / "a"))
        manifest = prepare(f"array_record:{tmp_path}/a/*.array_record*", str(tmp_path / "b"))
        assert manifest.class_names == ["0", "1"]

    def test_the_number_of_threads_changes_no_byte(self, tmp_path):
        spec = photos(tmp_path / "x", count=20)
        for threads in (1, 8):
            prepare(
                spec, str(tmp_path / f"{threads}"), shards=2, max_side_px=64, num_threads=threads
            )
        assert tree(tmp_path / "1") == tree(tmp_path / "8")

    def test_shards_by_size(self, tmp_path):
        rng = np.random.default_rng(0)
        noise = {f"{i}.png": encode(noise_image(rng), "PNG") for i in range(10)}
        spec = f"folder:{write_folder(tmp_path / 'x', noise)}"
        assert len(prepare(spec, str(tmp_path / "a"), shard_mb=1).shards) == 2  # 2.0 MB
        assert len(prepare(spec, str(tmp_path / "b")).shards) == 1
        assert len(prepare(spec, str(tmp_path / "c"), shards=99).shards) == 10


def noise_image(rng) -> np.ndarray:
    return rng.integers(0, 256, (256, 260, 3)).astype(np.uint8)


class TestBadRecords:
    def write(self, root: Path, bad: int) -> str:
        photos(root, count=20)
        for i in range(bad):
            (root / f"bad{i}.jpg").write_bytes(b"hello")
        return f"folder:{root}"

    def test_within_the_budget_they_are_left_out(self, tmp_path):
        spec = self.write(tmp_path / "x", 2)
        manifest = prepare(spec, str(tmp_path / "out"), shards=4, bad_budget=0.1)
        assert manifest.records == 20
        assert [bad["id"] for bad in manifest.skipped] == ["bad0.jpg", "bad1.jpg"]
        assert "record 'bad0.jpg' cannot be decoded" in manifest.skipped[0]["cause"]
        source = ArrayRecordSource(tmp_path / "out")
        good = FolderSource(tmp_path / "x")
        ids = [good.record_id(i) for i in range(22)]
        assert [source.record_id(i) for i in range(20)] == [i for i in ids if "bad" not in i]

    def test_over_budget(self, tmp_path):
        spec = self.write(tmp_path / "x", 5)
        with pytest.raises(
            ValueError,
            match=r"3 records cannot be read, and bad_budget allows 2: record 'bad0.jpg' cannot "
            r".*'bad1.jpg'.*'bad2.jpg'.*; raise bad_budget and run again",
        ):
            prepare(spec, str(tmp_path / "out"), shards=25, bad_budget=0.1)
        assert not (tmp_path / "out" / MANIFEST).exists()
        assert prepare(spec, str(tmp_path / "out"), shards=25, bad_budget=0.2).records == 20
        assert len(ArrayRecordSource(tmp_path / "out")) == 20  # five of its shards are empty

    def test_nothing_readable(self, tmp_path):
        write_folder(tmp_path / "x", {"a.jpg": b"hello"})
        with pytest.raises(ValueError, match=r"none of 1 records tried can be read: record 'a.jpg"):
            prepare(f"folder:{tmp_path / 'x'}", str(tmp_path / "out"), bad_budget=1.0)
        assert not (tmp_path / "out").exists()


class TestStorage:
    """Fails for one of 40 records, while the shards are written."""

    @pytest.fixture
    def fail(self, monkeypatch):
        """(n): in every shard, the first n reads of that record fail."""
        planned, left = {"reads": 0}, {"reads": 0}
        write_shard, read = prepare_folder.write_shard, FolderSource.read_file

        def write(*args, **options):
            left.update(planned)  # not before: the estimate and the fingerprint read all 40
            return write_shard(*args, **options)

        def read_file(self, number):
            if self.owner(number) == "dog/17.jpg" and left["reads"]:
                left["reads"] -= 1
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return read(self, number)

        monkeypatch.setattr(prepare_folder, "write_shard", write)
        monkeypatch.setattr(FolderSource, "read_file", read_file)
        monkeypatch.setattr(reading, "PAUSE_S", 0)
        return functools.partial(planned.__setitem__, "reads")

    def test_for_a_moment_or_for_ever(self, tmp_path, fail, monkeypatch, capsys):
        spec, out = photos(tmp_path / "x", 40), str(tmp_path / "out")
        prepare(spec, str(tmp_path / "whole"), shards=4)
        monkeypatch.setattr(exits.threading, "Timer", Mock())
        fail(2)
        with pytest.raises(SystemExit) as left:
            run_main(monkeypatch, source=spec, out=out, shards=4)
        assert left.value.code == exits.EXIT_CODES[StorageError]
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("dinojax.prepare: record 'dog/17.jpg' cannot be read for a reason")
        fail(1)
        prepare(spec, out, shards=4)
        assert tree(tmp_path / "out") == tree(tmp_path / "whole")


class TestInterrupted:
    def test_killed_and_continued_gives_the_same_bytes(self, tmp_path):
        """A real process, killed while it waits for the last record of its third shard."""
        data = encode(smooth(48, 64))
        images = {f"{i:03d}.jpg": data for i in range(130)}
        folder, out = write_folder(tmp_path / "x", images), tmp_path / "out"
        slow = folder / "076.jpg"  # not one that the fingerprint reads
        slow.unlink()
        os.mkfifo(slow)
        command = [sys.executable, "-m", "dinojax.prepare", f"--source=folder:{folder}"]
        process = subprocess.Popen(
            [*command, f"--out={out}", "--shards=5", "--max_side_px=32"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.DEVNULL,
        )
        third = "images-train.array_record-00002-of-00005"
        started = time.monotonic()
        while not (out / f"{third}.partial").exists():
            assert process.poll() is None and time.monotonic() < started + 300
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(list(out.glob(f"{PARTS}/0*.json"))) == 2
        assert not (out / third).exists() and not (out / MANIFEST).exists()
        finished = {path: path.stat().st_mtime_ns for path in out.glob("images-train*-of-00005")}
        assert len(finished) == 2
        with pytest.raises(FileNotFoundError, match="has not finished it: run the same command"):
            ArrayRecordSource(out)

        slow.unlink()
        slow.write_bytes(data)
        prepare(f"folder:{folder}", str(out), shards=5, max_side_px=32)
        assert {path: path.stat().st_mtime_ns for path in finished} == finished
        prepare(f"folder:{folder}", str(tmp_path / "whole"), shards=5, max_side_px=32)
        assert tree(out) == tree(tmp_path / "whole")
        assert len(ArrayRecordSource(out)) == 130

    def test_what_is_half_written_does_not_count(self, tmp_path):
        spec = photos(tmp_path / "x")
        prepare(spec, str(tmp_path / "whole"), shards=3)
        with pytest.raises(KeyboardInterrupt):
            prepare_until(tmp_path, spec, shard=1)
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == [LOCK, "images-train.array_record-00000-of-00003", PARTS]
        # A shard without its report, as when killed between the two.
        last = tmp_path / "out" / "images-train.array_record-00002-of-00003"
        last.write_bytes(b"half")
        last.with_name(f"{last.name}.partial").write_bytes(b"quarter")
        (tmp_path / "out" / f".{MANIFEST}.123").write_text("{")
        prepare(spec, str(tmp_path / "out"), shards=3)
        assert tree(tmp_path / "out") == tree(tmp_path / "whole")

    @pytest.mark.parametrize("lost", [True, False])
    def test_a_finished_shard_that_was_lost_is_written_again(self, tmp_path, lost):
        spec = photos(tmp_path / "x")
        prepare(spec, str(tmp_path / "whole"), shards=3)
        with pytest.raises(KeyboardInterrupt):
            prepare_until(tmp_path, spec, shard=2)
        first = tmp_path / "out" / "images-train.array_record-00000-of-00003"
        if lost:
            first.unlink()
        else:
            first.write_bytes(first.read_bytes()[:-5])
        prepare(spec, str(tmp_path / "out"), shards=3)
        assert tree(tmp_path / "out") == tree(tmp_path / "whole")

    def test_finished_folders_are_left_alone(self, tmp_path):
        spec = photos(tmp_path / "x")
        manifest = prepare(spec, str(tmp_path / "out"))
        times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
        (tmp_path / "out" / PARTS).mkdir()  # killed just before it was removed
        assert prepare(spec, str(tmp_path / "out")) == manifest
        assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == times

    def test_the_data_may_move(self, tmp_path):
        photos(tmp_path / "x")
        first = prepare(f"folder:{tmp_path / 'x'}", str(tmp_path / "out"))
        (tmp_path / "x").rename(tmp_path / "y")
        assert prepare(f"folder:{tmp_path / 'y'}", str(tmp_path / "out")) == first


def prepare_until(tmp_path: Path, spec: str, shard: int) -> None:
    """Interrupt as Ctrl-C would, when a shard is about to be written."""
    real = prepare_folder.write_shard

    def write(source, indices, path, **options):
        if f"-{shard:05d}-of" in path:
            raise KeyboardInterrupt
        return real(source, indices, path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_folder, "write_shard", write)
        prepare(spec, str(tmp_path / "out"), shards=3)


class TestRefusals:
    @pytest.mark.parametrize("interrupted", [False, True])
    def test_a_folder_of_other_data_or_options(self, tmp_path, interrupted):
        spec, out = photos(tmp_path / "x"), str(tmp_path / "out")
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                prepare_until(tmp_path, spec, shard=1)
        else:
            prepare(spec, out, shards=3)
        before = tree(tmp_path / "out") if not interrupted else None
        with pytest.raises(ValueError, match=r"out=.* belongs to source .* with options {.*'qual"):
            prepare(spec, out, shards=3, quality=50)
        with pytest.raises(ValueError, match=r"with options {.*'shards': 3}.*; give another folde"):
            prepare(spec, out, shards=2)
        with pytest.raises(ValueError, match=r"'channels': 3, .*and .* has {.*'channels': 1, "):
            prepare(spec, out, shards=3, channels=1)
        with pytest.raises(ValueError, match=r"out=.* belongs to source .* with fingerprint"):
            prepare(photos(tmp_path / "y", count=8), out, shards=3)
        assert before is None or tree(tmp_path / "out") == before

    def test_a_folder_of_something_else(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("")
        with pytest.raises(ValueError, match=r"out=.* holds other files; give a new or empty fol"):
            prepare(photos(tmp_path / "x"), str(tmp_path / "out"))

    def test_two_at_once(self, tmp_path):
        spec = photos(tmp_path / "x")
        with (
            locked(tmp_path / "out", "dinojax.prepare"),
            pytest.raises(ValueError, match=r"is being written by another dinojax.prepare; wait"),
        ):
            prepare(spec, str(tmp_path / "out"))
        prepare(spec, str(tmp_path / "out"))

    @pytest.mark.parametrize(
        ("option", "value", "words"),
        [
            ("shards", 0, r"shards=0 must lie in 1..99999; use 16"),
            ("shard_mb", 0, r"shard_mb=0 must lie in"),
            ("max_side_px", -1, r"max_side_px=-1 must lie in 0..65536; use 512"),
            ("quality", 101, r"quality=101 must lie in 1..100; use 95"),
            ("channels", 0, r"channels=0 must lie in 1..65535; use 3"),
            ("bad_budget", 1.5, r"bad_budget=1.5 must lie in 0..1; use 0.001"),
            ("num_threads", 0, r"num_threads=0 must lie in 1..1024; use 8"),
        ],
    )
    def test_options_outside_their_range(self, tmp_path, option, value, words):
        with pytest.raises(ValueError, match=words):
            prepare(photos(tmp_path / "x"), str(tmp_path / "out"), **{option: value})
        assert not (tmp_path / "out").exists()

    def test_missing_source(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder"):
            prepare(f"folder:{tmp_path}/nowhere", str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


def run_main(monkeypatch, **values) -> None:
    options = {
        "shards": None,
        "shard_mb": 256,
        "max_side_px": 512,
        "quality": 95,
        "channels": 3,
        "bad_budget": 0.001,
        "num_threads": None,
    }
    monkeypatch.setattr(app.flags, "FLAGS", SimpleNamespace(**{**options, **values}))
    app.main(["prepare"])


class TestCommand:
    def test_says_what_it_did_and_how_to_train(self, tmp_path, monkeypatch, capsys):
        run_main(monkeypatch, source=photos(tmp_path / "x"), out=str(tmp_path / "out"))
        said = capsys.readouterr()
        assert f"train with  --config.data.source=array_record:{tmp_path}/out" in said.out
        assert "records  7\n" in said.out and "100%" in said.err

    def test_refuses_in_one_sentence(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(exits.threading, "Timer", Mock())
        with pytest.raises(SystemExit) as exit:
            run_main(monkeypatch, source=f"folder:{tmp_path}/no", out=str(tmp_path / "out"))
        assert exit.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("dinojax.prepare: ") and said.count("\n") == 1
