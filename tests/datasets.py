"""One small dataset in the layout of every kind of source, for the tests of `dinojax.data`.

Record i of `COUNT` is a grey image of level 20 i, 12 high and 10 wide, of class i % 2, with class i
everywhere in its segmentation and i + 0.5 metres in its depth.
"""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from images import encode, write_folder, write_tar

from dinojax.prepare import prepare

COUNT = 6
CLASSES = ["cat", "dog"]
SHAPE = (12, 10)


def image(i: int) -> np.ndarray:
    return np.full((*SHAPE, 3), 20 * i, np.uint8)


def segmentation(i: int) -> np.ndarray:
    return np.full(SHAPE, i, np.uint8)


def depth(i: int) -> np.ndarray:
    return np.full(SHAPE, i + 0.5, np.float32)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    """Files by name; sorted by name they are not in the order of i."""
    named = {}
    for i in range(COUNT):
        stem = f"{CLASSES[i % 2]}/{i}"
        named[f"{stem}.png"] = encode(image(i), "PNG")
        named[f"{stem}.seg.png"] = encode(segmentation(i), "PNG")
        named[f"{stem}.depth.npy"] = npy(depth(i))
    return named


def write_shards(root: Path) -> str:
    """Two tars as WebDataset writes them: samples in a row, labels in ``.cls``."""
    root.mkdir()
    for shard in range(2):
        members = {}
        for i in range(3 * shard, 3 * shard + 3):
            stem = f"{i % 3:06d}"  # the same in both shards
            members[f"{stem}.cls"] = str(i % 2).encode()
            members[f"{stem}.depth.npy"] = npy(depth(i))
            members[f"{stem}.json"] = b"{}"
            members[f"{stem}.png"] = encode(image(i), "PNG")
            members[f"{stem}.seg.png"] = encode(segmentation(i), "PNG")
        write_tar(root / f"train-{shard:04d}.tar", members)
    return str(root / "train-*.tar")


def write_parquet(root: Path, group_rows: int = 2) -> str:
    """Two files in the layout of the Hugging Face hub."""
    root.mkdir(parents=True, exist_ok=True)
    file = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": CLASSES},
        "segmentation": {"_type": "Image"},
        "depth": {"_type": "Value", "dtype": "binary"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(
        [("image", file), ("label", pa.int64()), ("segmentation", file), ("depth", pa.binary())],
        metadata=metadata,
    )
    for shard in range(2):
        rows = [
            {
                "image": {"bytes": encode(image(i), "PNG"), "path": f"{i}.png"},
                "label": i % 2,
                "segmentation": {"bytes": encode(segmentation(i), "PNG"), "path": None},
                "depth": npy(depth(i)),
            }
            for i in range(3 * shard, 3 * shard + 3)
        ]
        table = pa.Table.from_pylist(rows, schema)
        pq.write_table(table, root / f"train-{shard:05d}.parquet", row_group_size=group_rows)
    return str(root / "train-*.parquet")


def arrays() -> dict[str, np.ndarray]:
    count = range(COUNT)
    return {
        "images": np.stack([image(i) for i in count]),
        "labels": np.arange(COUNT) % 2,
        "segmentation": np.stack([segmentation(i) for i in count]),
        "depth": np.stack([depth(i) for i in count]),
        "class_names": np.array(CLASSES),
    }


class Greys(tfds.core.GeneratorBasedBuilder):
    """The dataset as TFDS builds it; its order there is a shuffle of TFDS's."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(*SHAPE, 3)),
            "label": tfds.features.ClassLabel(names=CLASSES),
            "segmentation_mask": tfds.features.Image(shape=(*SHAPE, 1)),
            "depth": tfds.features.Tensor(shape=SHAPE, dtype=np.float16),
            "boxes": tfds.features.Sequence(tfds.features.BBoxFeature()),  # of no use here
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(COUNT), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            yield (
                i,
                {
                    "image": encode(image(i), "PNG"),
                    "label": i % 2,
                    "segmentation_mask": encode(segmentation(i), "PNG"),
                    "depth": depth(i).astype(np.float16),
                    "boxes": [],
                },
            )


def build_tfds(data_dir: Path, file_format: str = "array_record") -> str:
    """Build `Greys` and return its spec."""
    tfds.disable_progress_bar()
    Greys(data_dir=data_dir, file_format=file_format).download_and_prepare()
    return f"tfds:greys:train@{data_dir}"


def build(kind: str, root: Path) -> str:
    """Write the dataset below `root` in the layout of a kind, and return the spec of the source."""
    match kind:
        case "folder":
            return f"folder:{write_folder(root / 'images', files())}"
        case "tar":
            return f"tar:{write_tar(root / 'images.tar', files())}"
        case "tar shards":
            return f"tar:{write_shards(root / 'shards')}"
        case "parquet":
            return f"parquet:{write_parquet(root / 'parquet')}"
        case "numpy npz":
            np.savez(root / "images.npz", **arrays())
            return f"numpy:{root / 'images.npz'}"
        case "numpy folder":
            (root / "arrays").mkdir()
            for name, array in arrays().items():
                np.save(root / "arrays" / name, array)
            return f"numpy:{root / 'arrays'}"
        case "tfds":
            return build_tfds(root / "tfds")
        case "array_record":
            prepare(build("tar", root), str(root / "prepared"), shards=2)
            return f"array_record:{root / 'prepared'}"
        case "array_record glob":
            build("array_record", root)
            return f"array_record:{root / 'prepared'}/*.array_record-*"
        case "tfds of prepare":
            build("array_record", root)
            return f"tfds:{root / 'prepared'}:train"
    raise ValueError(kind)


KINDS = (
    "folder",
    "tar",
    "tar shards",
    "parquet",
    "numpy npz",
    "numpy folder",
    "tfds",
    "array_record",
    "array_record glob",
    "tfds of prepare",
)
