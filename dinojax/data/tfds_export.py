"""What makes a folder of shards a dataset of TFDS: ``tfds.builder_from_directory`` reads it."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, UnidentifiedImageError

from dinojax.data.manifest import Manifest
from dinojax.data.tally import Tally

NAME, SPLIT = "images", "train"
VERSION = "1.0.0"

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MODES = {1: ("1", "L"), 3: ("1", "L", "P", "RGB", "CMYK")}
"""By number of channels, Pillow's modes of files that TFDS decodes to so many."""


def shard_name(number: int, count: int) -> str:
    """File name of a shard, in TFDS's pattern."""
    return f"{NAME}-{SPLIT}.array_record-{number:05d}-of-{count:05d}"


def is_tfds_image(data: bytes, channels: int) -> bool:
    """Whether TFDS decodes the file to uint8 of `channels` channels.

    It makes RGB of grey, but not grey of RGB; it keeps transparency, and of 16-bit grey the low
    byte.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.mode in MODES.get(channels, ()) and not image.has_transparency_data
    except UnidentifiedImageError:
        return False


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
