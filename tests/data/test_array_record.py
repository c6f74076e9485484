"""ArrayRecord: prepared folders with their manifest, other shards, and damage of either."""

import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from images import encode, smooth

from dinojax.data.array_record import ArrayRecordSource
from dinojax.data.examples import to_example
from dinojax.data.manifest import MANIFEST
from dinojax.data.open import open_source
from dinojax.data.records import Record
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
        with pytest.raises(ValueError, match=r"'a__1' has no encoded image under 'image'; it has "):
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
        with pytest.raises(FileNotFoundError, match=r"/a has gone since the source was opened"):
            source[0]
