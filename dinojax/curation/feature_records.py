"""Features in ArrayRecord: a ``tf.train.Example`` per record, as `dinojax.embed` writes it.

Images' sizes are not there.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from dinojax.curation.feature_tables import PART, Listed
from dinojax.data.array_record import read_in_order
from dinojax.data.examples import FeatureExample, read_feature_example


def list_examples(path: Path, feature: str, name: str) -> Listed:
    """As `feature_files.list_file`."""
    ids, labels, widths = [], [], set()
    for example in _examples(path):
        if feature not in example.values:
            known = sorted(example.values)
            near = difflib.get_close_matches(feature, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {known}"
            raise ValueError(f"{name}: {path} has no feature {feature!r}; {hint}")
        ids.append(example.id)
        labels.append(example.label)
        widths.add(len(example.values[feature]))
    if len(widths) > 1:
        raise ValueError(
            f"{name}.feature={feature!r} of {path} has the widths {sorted(widths)}; give a file "
            "with records of one width"
        )
    named = pa.array(ids, pa.large_string())
    pixels = np.zeros(len(ids), np.int64)
    return Listed(named, np.asarray(labels, np.int32), pixels, max(widths, default=0))


def read_example_rows(path: Path, feature: str) -> Iterator[Float[np.ndarray, "r D"]]:
    """As `feature_files.read_rows`."""
    rows: list[np.ndarray] = []
    for example in _examples(path):
        rows.append(example.values[feature])
        if len(rows) == PART:
            yield np.stack(rows)
            rows = []
    if rows:
        yield np.stack(rows)


def _examples(path: Path) -> Iterator[FeatureExample]:
    for number, data in enumerate(read_in_order(path)):
        try:
            yield read_feature_example(data)
        except ValueError as error:
            raise ValueError(f"record {number} of {path}: {error}") from error
