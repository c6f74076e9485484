"""Class names: from folders, from ImageNet's file names, from lists, or the numbers themselves."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

IMAGENET_NAME = re.compile(r"n\d{8}_\d+\.\w+")
"""``n01440764_10026.JPEG``: a WordNet id and a number. ImageNet comes as one tar for each id."""


def classes_of(names: Sequence[str]) -> tuple[Int32[np.ndarray, " n"], list[str] | None]:
    """Labels by first directory (-1: the name has none) and the sorted class names, if any.

    Without any directory, the WordNet id that starts the name of every file of ImageNet. The name
    of a tar is never a class: most tars are shards of many.
    """
    tops = [name.rpartition("/")[0].partition("/")[0] for name in names]
    if not any(tops) and all(map(IMAGENET_NAME.fullmatch, names)):
        tops = [name.partition("_")[0] for name in names]
    class_names = sorted(set(tops) - {""})
    number = {top: label for label, top in enumerate(class_names)}
    return np.array([number.get(top, -1) for top in tops], np.int32), class_names or None


def name_classes(
    labels: Int32[np.ndarray, " n"], names: Sequence[str] | None, where: str
) -> list[str]:
    """`names` by label, or the numbers where there are none.

    Raises:
        ValueError: a name that occurs twice, or a label without a name; names `where`.
    """
    count = int(labels.max(initial=-1)) + 1
    if names is None:
        return [str(label) for label in range(count)]
    if len(names) < count or len(set(names)) < len(names):
        raise ValueError(
            f"{where} has labels up to {count - 1} and {len(set(names))} different names of "
            f"classes in a list of {len(names)}; give one name per class"
        )
    return list(names)
