"""ArrayRecord: prepared folders with their manifest, other shards, and damage of either."""

import json
import os
import resource
from contextlib import closing
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from images import encode, smooth

from dinojax.data import array_record
from dinojax.data.array_record import ArrayRecordSource, ExampleShards, read_in_order
from dinojax.data.examples import to_example
from dinojax.data.manifest import MANIFEST
from dinojax.data.open import open_source
from dinojax.data.order import Order
from dinojax.data.pipeline import make_loader
from dinojax.data.records import Record
from dinojax.data.threads import StorageError
from dinojax.prepare import prepare

DATA = encode(smooth(9, 8))


def write_shard(path, records: list[bytes], options="group_size:1"):
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()


def example(label: int | None) -> bytes:
    return to_example(Record(DATA, "any", label))


@pytest.fixture
def prepared(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.stack([smooth(9, 8)] * 5), labels=np.arange(5))
    prepare(f"numpy:{tmp_path / 'x.npz'}", str(tmp_path / "out"), shards=2)
    return tmp_path / "out"


class TestPrepared:
    def test_ids_and_class_names_are_the_source_s(self, prepared):
        source = ArrayRecordSource(prepared)
        assert [source.record_id(i) for i in range(5)] == [f"{i:08d}" for i in range(5)]
        assert [source[i].label for i in range(5)] == list(range(5)) == source.known_labels.tolist()
        assert source.class_names == ["0", "1", "2", "3", "4"]

    def test_missing_shard(self, prepared):
        os.remove(prepared / "images-train.array_record-00001-of-00002")
        with pytest.raises(
            FileNotFoundError,
            match=r"00001-of-00002 is missing: manifest.json lists it with 3 records; copy it",
        ):
            ArrayRecordSource(prepared)

    def test_shard_of_another_length(self, prepared):
        path = prepared / "images-train.array_record-00000-of-00002"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(
            ValueError, match=r"00000-of-00002 has 131071 bytes where manifest.json says 131072"
        ):
            ArrayRecordSource(prepared)

    def test_damaged_shard_of_the_right_length(self, prepared):
        path = prepared / "images-train.array_record-00000-of-00002"
        path.write_bytes(bytes(len(path.read_bytes())))
        source = ArrayRecordSource(prepared)
        with pytest.raises(ValueError, match=r"00000-of-00002 is not a complete ArrayRecord file"):
            source[0]
        assert source[2].label == 2

    def test_no_manifest(self, prepared):
        os.remove(prepared / MANIFEST)
        with pytest.raises(FileNotFoundError, match=r"TFDS wrote it: use tfds:.*/out:SPLIT, e.g."):
            ArrayRecordSource(prepared)
        os.remove(prepared / "dataset_info.json")
        with pytest.raises(FileNotFoundError, match=r"give a folder that dinojax.prepare wrote"):
            ArrayRecordSource(prepared)
        (prepared / "unfinished").mkdir()
        with pytest.raises(FileNotFoundError, match=r"has not finished it: run the same command"):
            ArrayRecordSource(prepared)

    @pytest.mark.parametrize("text", ["", "{}", '{"shards": [{"name": "x"}]}', "[1]"])
    def test_damaged_manifest(self, prepared, text):
        (prepared / MANIFEST).write_text(text)
        with pytest.raises(ValueError, match=r"manifest.json is not a manifest of dinojax.prepare"):
            ArrayRecordSource(prepared)

    def test_index_that_does_not_fit(self, prepared):
        table = pq.read_table(prepared / "index.parquet")
        pq.write_table(table.slice(0, 4), prepared / "index.parquet")
        with pytest.raises(ValueError, match=r"lists 4 records, manifest.json counts 5 and its sh"):
            ArrayRecordSource(prepared)
        os.remove(prepared / "index.parquet")
        with pytest.raises(FileNotFoundError, match=r"index.parquet is missing; copy it again"):
            ArrayRecordSource(prepared)

    def test_count_that_does_not_fit(self, prepared):
        values = json.loads((prepared / MANIFEST).read_text())
        values["records"] = 6
        (prepared / MANIFEST).write_text(json.dumps(values))
        with pytest.raises(ValueError, match=r"lists 5 records, manifest.json counts 6"):
            ArrayRecordSource(prepared)


class TestOthers:
    def test_ids_are_file_and_position(self, tmp_path):
        write_shard(tmp_path / "b.array_record", [example(1)])
        write_shard(tmp_path / "a.array_record", [example(7), example(None)])
        source = open_source(f"array_record:{tmp_path}/*.array_record")
        assert [(source[i].id, source[i].label) for i in range(3)] == [
            ("a.array_record__0", 7),
            ("a.array_record__1", None),
            ("b.array_record__0", 1),
        ]
        assert source[0].image == DATA and source.class_names is None

    def test_records_that_are_no_examples(self, tmp_path):
        write_shard(tmp_path / "a", [b"\xffhello", b""])
        source = ArrayRecordSource(tmp_path / "a")
        with pytest.raises(ValueError, match=r"record 'a__0' is no tf.train.Example"):
            source[0]
        with pytest.raises(ValueError, match=r"/a at record 1 is empty: cut short .* copy it"):
            source[1]

    @pytest.mark.parametrize(
        ("data", "cause"),
        [(b"", "at least 64KB"), (b"hello", "at least 64KB"), (bytes(200_000), "orrupted")],
    )
    def test_damaged_file(self, tmp_path, data, cause):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(ValueError, match=rf"/a is not a complete ArrayRecord file \(.*{cause}"):
            ArrayRecordSource(tmp_path / "a")

    def test_truncated_file(self, tmp_path):
        write_shard(tmp_path / "a", [example(i) * 50 for i in range(50)])
        whole = (tmp_path / "a").read_bytes()
        (tmp_path / "a").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"/a is not a complete ArrayRecord file .*copy it"):
            ArrayRecordSource(tmp_path / "a")

    def test_no_records(self, tmp_path):
        write_shard(tmp_path / "a", [])
        with pytest.raises(ValueError, match=r"/a .*(holds no records|not a complete)"):
            ArrayRecordSource(tmp_path / "a")

    def test_file_that_went_away(self, tmp_path):
        write_shard(tmp_path / "a", [example(1)])
        source = ArrayRecordSource(tmp_path / "a")
        os.remove(tmp_path / "a")
        with pytest.raises(StorageError, match=r"/a cannot be read \(open.*No such file or direct"):
            source[0]

    def test_file_that_the_system_does_not_give(self, tmp_path):
        """Open files are used up, for real."""
        write_shard(tmp_path / "a", [example(1)])
        source = ArrayRecordSource(tmp_path / "a")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            with pytest.raises(
                StorageError, match=r"/a cannot be read \(open.*Too many open files"
            ):
                source[0]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert source[0].label == 1

    def test_reads_that_the_system_fails(self, tmp_path, monkeypatch):
        """In the words of array_record over a `pread` that a preloaded library lets fail."""
        said = "pread() failed: Input/output error; reading Corrupted /a; at byte 18196"
        reader = Mock(read=Mock(side_effect=RuntimeError(said)))
        monkeypatch.setattr(array_record, "_open", lambda paths, shard: reader)
        shards = ExampleShards([f"{tmp_path}/a"], [0], [1])
        with pytest.raises(
            StorageError, match=r"/a at record 0 cannot be read \(pread.*put error\)"
        ):
            shards.read(0)


class TestDamage:
    """Of one chunk, while the file as a whole can be opened."""

    @pytest.fixture
    def damaged(self, tmp_path):
        """200 bytes of record 7 of 20 are zero."""
        path = tmp_path / "a.array_record"
        images = [encode(smooth(60 + i, 60)) for i in range(20)]
        records = [to_example(Record(data, "any", 0)) for data in images]
        write_shard(path, records, "group_size:1,uncompressed")
        with path.open("r+b") as file:
            file.seek(path.read_bytes().index(images[7]) + 300)
            file.write(bytes(200))
        return path

    def test_is_named_by_shard_and_position(self, damaged):
        source = ArrayRecordSource(damaged)
        words = r"/a.array_record at record 7 is damaged \(Corrupted .*; copy it again"
        with pytest.raises(ValueError, match=words):
            source[7]
        assert len([source[i] for i in range(20) if i != 7]) == 19
        with pytest.raises(ValueError, match=r"at records 0 to 19 is damaged \(Corrupted"):
            list(read_in_order(damaged))

    def test_a_run_shows_another_record(self, damaged):
        source = ArrayRecordSource(damaged)
        with closing(
            make_loader(source, Order((20,), 20, 0), canvas_px=32, num_threads=2)
        ) as loader:
            batch = next(loader)
        (problem,) = batch["problems"]
        assert problem.id == "a.array_record__7"
        assert problem.cause.startswith(f"{damaged} at record 7 is damaged")

    def test_prepare_leaves_it_out(self, damaged, tmp_path):
        manifest = prepare(f"array_record:{damaged}", str(tmp_path / "out"), bad_budget=0.05)
        assert [bad["id"] for bad in manifest.skipped] == ["a.array_record__7"]

    def test_cut_short_while_it_is_read(self, damaged):
        """The reader keeps what it knows of the file, and gives empty records from there on."""
        source = ArrayRecordSource(damaged)
        assert source[0].label == 0
        os.truncate(damaged, 20_000)
        with pytest.raises(ValueError, match=r"at record 19 is empty: cut short since it was open"):
            source[19]

    def test_more_records_are_promised_than_there_are(self, damaged):
        with pytest.raises(ValueError, match=r"at record 20 is damaged \(index 20 out of bound 20"):
            ExampleShards([str(damaged)], [0], [21]).read(20)
