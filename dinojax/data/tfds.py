"""`TfdsSource`: datasets that TensorFlow Datasets prepared as ArrayRecord, without TensorFlow."""

import os
import re
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from dinojax.data.array_record import ExampleShards
from dinojax.data.examples import Fields, from_example
from dinojax.data.records import Record

SPEC = re.compile(
    r"(?P<name>[^:@]+(:[\d*]+\.[\d*]+\.[\d*]+)?):(?P<split>[^:@/][^@/]*)(@(?P<data_dir>.+))?"
)
SEGMENTATION = ("segmentation", "segmentation_mask", "segmentation_label")
DEPTH = ("depth", "depth_map")


class TfdsSource:
    """One split of a prepared dataset: nothing is downloaded, built or decoded here.

    The image is the feature ``image`` or the only image there is; the label is ``label`` or the
    only class label. Ids are ``FILE__POSITION``, TFDS's own ``tfds_id``, which a sub-split shares
    with its split.

    Args:
        spec: ``NAME[/CONFIG][:VERSION]:SPLIT[@DATA_DIR]`` with a split of TFDS's grammar
            (``train[:10%]``, ``train+test``); or ``FOLDER:SPLIT`` with the folder that holds
            ``dataset_info.json``.
        data_dir: where datasets lie; None: ``@DATA_DIR``, else ``~/tensorflow_datasets``.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: no such dataset or split, not stored as ArrayRecord, or without records.
    """

    def __init__(self, spec: str, data_dir: str | None = None):
        match = SPEC.fullmatch(spec)
        if match is None:
            raise ValueError(
                f"{spec!r} is not NAME[/CONFIG][:VERSION]:SPLIT[@DATA_DIR]; write e.g. "
                "tfds:cifar10:train@/data/tfds"
            )
        info = _open_info(match["name"], data_dir or match["data_dir"])
        try:
            files = info.splits[match["split"]].file_instructions
        except (ValueError, KeyError, AssertionError) as error:
            raise ValueError(
                f"tfds:{spec} names no split ({_first_line(error)}); use one of "
                f"{sorted(info.splits)}, or a part such as train[:10%]"
            ) from error
        self._fields, self.class_names = _find_fields(info.features, spec)
        if not sum(file.take for file in files):
            raise ValueError(f"tfds:{spec} holds no records; use one of {sorted(info.splits)}")
        paths = [os.fspath(file.filename) for file in files]
        for path in paths:
            if not os.path.isfile(path):
                raise FileNotFoundError(f"{path} is missing; prepare tfds:{spec} again")
        self._names = [os.path.basename(path) for path in paths]
        self._shards = ExampleShards(
            paths, [file.skip for file in files], [file.take for file in files]
        )

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> Record:
        return from_example(self._shards.read(index), self.record_id(index), self._fields)

    def record_id(self, index: int) -> str:
        shard, position = self._shards.place(index)
        return f"{self._names[shard]}__{position}"


def _open_info(name: str, data_dir: str | None) -> Any:
    """TFDS's description of a dataset on this disk."""
    folder = name
    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "dataset_info.json")):
        raise ValueError(
            f"tfds:{name} holds no dataset_info.json; give the folder of one version, e.g. "
            "/data/tfds/cifar10/3.0.2"
        )
    try:
        if not os.path.isdir(name):
            folder = read_only_builder.builder_from_files(name, data_dir=data_dir).data_dir
        return tfds.builder_from_directory(folder, file_format="array_record").info
    except (ValueError, OSError) as error:
        where = "" if data_dir is None else f", data_dir={data_dir!r}"
        raise ValueError(
            f"tfds:{name} cannot be opened ({_first_line(error)}); prepare it once with "
            f"tfds.builder({name!r}{where}, file_format='array_record').download_and_prepare()"
        ) from error


def _find_fields(features: Any, spec: str) -> tuple[Fields, list[str] | None]:
    """Which features are image, label and maps, and the class names."""
    any_image = _of_kind(features, tfds.features.Image)
    colour = [name for name in any_image if features[name].shape[-1] != 1]
    image = _choose("image", colour) or _choose("image", any_image)
    if image is None:
        raise ValueError(
            f"tfds:{spec} has no single image feature; it has {sorted(features)}, of which "
            f"{any_image} are images"
        )
    label = _choose("label", _of_kind(features, tfds.features.ClassLabel))
    segmentation = next((name for name in SEGMENTATION if name in any_image), None)
    depth = next((name for name in DEPTH if name in features), None)
    shape = None
    if depth is not None and depth not in any_image:
        shape = tuple(features[depth].shape)[:2]
    fields = Fields(image, label, segmentation, depth, shape)
    named = label is not None and features[label].num_classes is not None
    return fields, list(features[label].names) if named else None


def _of_kind(features: Any, kind: type) -> list[str]:
    return sorted(name for name, feature in features.items() if isinstance(feature, kind))


def _choose(name: str, candidates: list[str]) -> str | None:
    if name in candidates:
        return name
    return candidates[0] if len(candidates) == 1 else None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
