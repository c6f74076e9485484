"""What makes a folder of shards a dataset of TFDS: ``tfds.builder_from_directory`` reads it."""

import numpy as np
import tensorflow_datasets as tfds

from dinojax.data.manifest import Manifest
from dinojax.data.tally import Tally

NAME, SPLIT = "images", "train"
VERSION = "1.0.0"


def shard_name(number: int, count: int) -> str:
    """File name of a shard, in TFDS's pattern."""
    return f"{NAME}-{SPLIT}.array_record-{number:05d}-of-{count:05d}"


def write_tfds_metadata(folder: str, manifest: Manifest, tally: Tally) -> None:
    """Write ``dataset_info.json`` and ``features.json`` for the shards in `folder`.

    Maps are features only where every record has one: TFDS has no optional images.
    """
    features: dict[str, tfds.features.FeatureConnector] = {
        "image": tfds.features.Image(shape=(None, None, len(tally.histogram))),
        "id": tfds.features.Text(),
    }
    if manifest.class_names is not None:
        features["label"] = tfds.features.ClassLabel(names=manifest.class_names)
    if tally.segmentations == tally.records:
        dtype = np.uint8 if tally.classes <= 256 else np.uint16
        features["segmentation"] = tfds.features.Image(
            shape=(None, None, 1), dtype=dtype, encoding_format="png"
        )
    if tally.depths == tally.records:
        features["depth"] = tfds.features.Image(
            shape=(None, None, 1), dtype=np.float32, encoding_format="png"
        )
    files = tfds.core.ShardedFileTemplate(
        data_dir=tfds.core.Path(folder),
        dataset_name=NAME,
        split=SPLIT,
        filetype_suffix="array_record",
    )
    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=[shard.records for shard in manifest.shards],
        num_bytes=tally.content_bytes,
        filename_template=files,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=[split],
        version=VERSION,
        check_data=False,
        description=f"Written by dinojax.prepare from {manifest.source}.",
    )
