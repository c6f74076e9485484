"""Places205 as published: ``train_places205.csv``, ``val_places205.csv``, images in ``images256``.

A line is ``a/abbey/gsun_0003.jpg 0``: the file and its class. Of Places365 the images lie in a
folder per class: `class_folders`.
"""

from pathlib import Path

from dinojax.data.eval_records import EvalRecords
from dinojax.data.listed import ListedFiles

IMAGES = "images256"


def open_places205(root: Path) -> EvalRecords:
    """Raises: FileNotFoundError: a list is missing. ValueError: it is not of this form."""
    parts = [_read(root / f"{split}_places205.csv") for split in ("train", "val")]
    classes = [str(label) for label in range(1 + max(max(labels) for _, labels in parts))]
    train, val = (ListedFiles(root / IMAGES, *part, classes) for part in parts)
    return EvalRecords(train, val)


def _read(path: Path) -> tuple[list[str], list[int]]:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; unpack trainvalsplit_places205.tar.gz beside {IMAGES}/"
        )
    names, labels = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdigit():
            raise ValueError(
                f"{path}, line {number}: {line!r} is not 'FILE CLASS', as in "
                "'a/abbey/gsun_0003.jpg 0'"
            )
        names.append(name)
        labels.append(int(label))
    return names, labels
