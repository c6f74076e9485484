"""A folder per class, in a folder per split: ImageNet-1k, iNaturalist 2021, Places365.

``train/n01440764/n01440764_18.JPEG`` and ``val/n01440764/ILSVRC2012_val_00000293.JPEG``.
"""

from pathlib import Path

from dinojax.data.eval_records import EvalRecords
from dinojax.data.folder import FolderSource

SHOWN = 3


def open_class_folders(root: Path, train: str = "train", val: str = "val") -> EvalRecords:
    """Raises: FileNotFoundError: a folder is missing. ValueError: other classes in it."""
    sources = FolderSource(root / train), FolderSource(root / val)
    first, second = (set(source.class_names or ()) for source in sources)
    if first != second or not first:
        others = sorted(first ^ second)[:SHOWN]
        raise ValueError(
            f"{root}: {train} has {len(first)} class folders and {val} {len(second)}, which must "
            f"be the same{f', unlike {others}' if others else ''}; sort the images of both into a "
            "folder per class"
        )
    return EvalRecords(*sources)
