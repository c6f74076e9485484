"""DAVIS 2017 as published: ``JPEGImages/480p/SEQ``, ``Annotations/480p/SEQ``, ``ImageSets/2017``.

Annotations are palette PNG: the index is the object's number in its video, 0 the background.
"""

from pathlib import Path

from dinojax.data.eval_records import EvalRecords
from dinojax.data.paired import PairedFiles, match_folders

RESOLUTION = "480p"


def open_davis(root: Path) -> EvalRecords:
    """Nothing is trained: both parts are the videos of ``val.txt``.

    Raises:
        FileNotFoundError: the list, a video or a map is missing.
        ValueError: the list is empty.
    """
    path = root / "ImageSets" / "2017" / "val.txt"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; unpack DAVIS-2017-trainval-480p.zip there")
    videos = path.read_text(encoding="utf-8").split()
    pairs = [
        pair
        for video in videos
        for pair in match_folders(
            root, f"JPEGImages/{RESOLUTION}/{video}", f"Annotations/{RESOLUTION}/{video}"
        )
    ]
    source = PairedFiles(root, pairs, "segmentation")
    return EvalRecords(source, source)
