"""ImageNet-1k with the reassessed labels of its validation images (ReaL, arXiv:2006.07159).

As `class_folders`, and beside them ``real.json`` of github.com/google-research/reassessed-imagenet:
a list of 50,000 lists of classes, by the number in the file's name, ``ILSVRC2012_val_00000293``.
Classes are numbered by their sorted WordNet ids. Images with an empty list are not scored.
"""

import json
import re
from pathlib import Path

import numpy as np

from dinojax.data.eval_records import EvalRecords
from dinojax.data.layouts.class_folders import open_class_folders
from dinojax.data.subset import Subset

FILE = "real.json"
NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+$")


def open_real(root: Path) -> EvalRecords:
    """Raises: as `open_class_folders`; ValueError: the list is not of these images."""
    records = open_class_folders(root)
    try:
        lists = json.loads((root / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{root / FILE} is missing; it is real.json of "
            "github.com/google-research/reassessed-imagenet"
        ) from error
    numbers = [_number(records.test.record_id(i), root) for i in range(len(records.test))]
    if max(numbers) > len(lists):
        raise ValueError(
            f"{root / FILE} lists {len(lists)} images, and there is one of the number "
            f"{max(numbers)}; give the list of the whole validation set"
        )
    classes = len(records.train.class_names or ())
    accepted = [tuple(int(label) for label in lists[number - 1]) for number in numbers]
    wrong = {label for labels in accepted for label in labels if not 0 <= label < classes}
    if wrong:
        raise ValueError(
            f"{root / FILE} has the class {min(wrong)}, and there are {classes} class folders; "
            "give all classes of ImageNet-1k"
        )
    kept = [i for i, labels in enumerate(accepted) if labels]
    return EvalRecords(
        records.train,
        Subset(records.test, np.array(kept, np.int64)),
        accepted=tuple(accepted[i] for i in kept),
    )


def _number(name: str, root: Path) -> int:
    match = NUMBER.search(name)
    if match is None:
        raise ValueError(
            f"{root}: the validation image {name!r} has no name like ILSVRC2012_val_00000293.JPEG, "
            f"by which {FILE} lists it; keep the names of ImageNet"
        )
    return int(match[1])
