"""Records as ``tf.train.Example``, in the conventions of TFDS: what ArrayRecord shards hold.

TFDS ships the compiled message, so that TensorFlow is not needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from dinojax.data.records import Record

# Generated modules, in which type checkers see no names.
example_pb2: Any = tf_example_pb2
feature_pb2: Any = tf_feature_pb2

NO_LABEL = -1
"""Of a record without a label among records with one; TFDS's own convention."""


@dataclass(frozen=True)
class Fields:
    """Which feature of an example holds which part of a record; None: none does.

    `depth_shape` is the (height, width) of depth that is stored as plain numbers.
    """

    image: str = "image"
    label: str | None = "label"
    segmentation: str | None = "segmentation"
    depth: str | None = "depth"
    depth_shape: tuple[int, int] | None = None


def to_example(record: Record) -> bytes:
    """The serialised example of a record whose image and maps are encoded files."""
    label = NO_LABEL if record.label is None else record.label
    features = {
        "image": _bytes(record.image),
        "id": _bytes(record.id.encode()),
        "label": feature_pb2.Feature(int64_list=feature_pb2.Int64List(value=[label])),
    }
    for name, part in (("segmentation", record.segmentation), ("depth", record.depth)):
        if part is not None:
            features[name] = _bytes(part)
    example = example_pb2.Example(features=feature_pb2.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def feature_example(id: str, label: int, features: Mapping[str, np.ndarray]) -> bytes:
    """The serialised example of a record's features: flat lists of float32."""
    entries = {
        name: feature_pb2.Feature(float_list=feature_pb2.FloatList(value=value.ravel().tolist()))
        for name, value in features.items()
    }
    entries["id"] = _bytes(id.encode())
    entries["label"] = feature_pb2.Feature(int64_list=feature_pb2.Int64List(value=[label]))
    example = example_pb2.Example(features=feature_pb2.Features(feature=entries))
    return example.SerializeToString(deterministic=True)


class FeatureExample(NamedTuple):
    """A record's features."""

    id: str
    label: int
    values: dict[str, Float[np.ndarray, " _"]]


def read_feature_example(data: bytes) -> FeatureExample:
    """What `feature_example` has made.

    Raises:
        ValueError: no example, or one without an id.
    """
    features = _features(data)
    ids = features["id"].bytes_list.value if "id" in features else ()
    if len(ids) != 1:
        raise ValueError(f"an example without an id; it has {sorted(features)}")
    labels = features["label"].int64_list.value if "label" in features else ()
    values = {
        name: np.asarray(feature.float_list.value, np.float32)
        for name, feature in features.items()
        if feature.HasField("float_list")
    }
    return FeatureExample(ids[0].decode(), labels[0] if len(labels) == 1 else NO_LABEL, values)


def from_example(data: bytes, id: str, fields: Fields = Fields()) -> Record:
    """The record in a serialised example, image and maps still encoded.

    Raises:
        ValueError: no example, or one without an encoded image under that name; names `id`.
    """
    try:
        features = _features(data)
    except ValueError as error:
        raise ValueError(f"record {id!r} is {error}") from error
    images = features[fields.image].bytes_list.value if fields.image in features else ()
    if len(images) != 1:
        raise ValueError(
            f"record {id!r} has no encoded image under {fields.image!r}; it has {sorted(features)}"
        )
    labels = ()
    if fields.label is not None and fields.label in features:
        labels = features[fields.label].int64_list.value
    label = labels[0] if len(labels) == 1 else NO_LABEL
    return Record(
        image=images[0],
        id=id,
        label=None if label == NO_LABEL else label,
        segmentation=_map(features, fields.segmentation),
        depth=_map(features, fields.depth, fields.depth_shape),
    )


def _features(data: bytes) -> Any:
    try:
        return example_pb2.Example.FromString(data).features.feature
    except Exception as error:  # protobuf's DecodeError has no public home
        raise ValueError(f"no tf.train.Example ({error})") from error


def _bytes(value: object) -> Any:
    return feature_pb2.Feature(bytes_list=feature_pb2.BytesList(value=[value]))


def _map(
    features: Any, name: str | None, shape: tuple[int, int] | None = None
) -> np.ndarray | bytes | None:
    if name is None or name not in features:
        return None
    feature = features[name]
    if shape is not None:
        return np.array(feature.float_list.value, np.float32).reshape(shape)
    return feature.bytes_list.value[0] if feature.bytes_list.value else None
