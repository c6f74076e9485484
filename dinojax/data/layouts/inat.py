"""iNaturalist 2018 as published: ``train2018.json``, ``val2018.json``, images ``train_val2018/``.

The files are those of the competition, in COCO's form: ``images`` with ``file_name`` (below the
root) and ``id``, ``annotations`` with ``image_id`` and ``category_id``. Of 2021 the images lie in a
folder per class: `class_folders`.
"""

import json
from pathlib import Path
from typing import Any

from dinojax.data.eval_records import EvalRecords
from dinojax.data.listed import ListedFiles


def open_inat2018(root: Path) -> EvalRecords:
    """Raises: FileNotFoundError: a list is missing. ValueError: it is not of this form."""
    train, val = (_read(root / f"{split}2018.json") for split in ("train", "val"))
    names = sorted({category for listed in (train, val) for _, category in listed})
    number = {category: label for label, category in enumerate(names)}
    classes = [str(category) for category in names]

    def open_part(listed: list[tuple[str, int]]) -> ListedFiles:
        files = [file for file, _ in listed]
        return ListedFiles(root, files, [number[category] for _, category in listed], classes)

    return EvalRecords(open_part(train), open_part(val))


def _read(path: Path) -> list[tuple[str, int]]:
    """(file, category) in the order of the list."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; download it with the images of iNaturalist 2018 "
            "(github.com/visipedia/inat_comp)"
        )
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        category = {one["image_id"]: one["category_id"] for one in content["annotations"]}
        return [(one["file_name"], category[one["id"]]) for one in content["images"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no list of images with categories ({type(error).__name__}: {error}); "
            "download it again"
        ) from error
