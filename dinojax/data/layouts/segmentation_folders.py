"""Images in one folder and their segmentation in another, a pair of folders per split.

ADE20K of the scene parsing challenge (``ADEChallengeData2016``): ``images/training`` and
``annotations/training``, ``.../validation``; class numbers 1..150, 0 is unlabelled. CamVid as
SegNet's authors cut it, with its files in ``train/images``, ``train/labels``, ``val/...``: 0..10,
and 11 is unlabelled.
"""

from pathlib import Path

from dinojax.data.eval_records import EvalRecords
from dinojax.data.paired import PairedFiles, match_folders

Folders = tuple[str, str]


def open_segmentation_folders(root: Path, train: Folders, test: Folders) -> EvalRecords:
    """Raises: FileNotFoundError: a folder or a map is missing. ValueError: there is no image.

    Args:
        train: folders of images and of maps.
        test: the same of what is scored.
    """
    pairs = [match_folders(root, *part) for part in (train, test)]
    first, second = (PairedFiles(root, part, "segmentation") for part in pairs)
    return EvalRecords(first, second)


def open_ade20k(root: Path) -> EvalRecords:
    """Raises: as `open_segmentation_folders`."""
    return open_segmentation_folders(
        root,
        ("images/training", "annotations/training"),
        ("images/validation", "annotations/validation"),
    )


def open_camvid(root: Path) -> EvalRecords:
    """Raises: as `open_segmentation_folders`."""
    return open_segmentation_folders(
        root, ("train/images", "train/labels"), ("val/images", "val/labels")
    )
