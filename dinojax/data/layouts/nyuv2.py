"""NYU depth v2 as depth estimation uses it: lists of image, depth and focal length.

``nyu_train.txt`` and ``nyu_test.txt`` (BTS, arXiv:1907.10326; the Monocular-Depth-Toolbox lays the
images out beside them) have lines like ``bathroom/rgb_00045.jpg bathroom/sync_depth_00045.png
518.8579``. Depths are 16-bit PNG in millimetres; 0 is unknown.
"""

from pathlib import Path

from dinojax.data.eval_records import EvalRecords
from dinojax.data.paired import PairedFiles


def open_nyuv2(root: Path) -> EvalRecords:
    """Raises: FileNotFoundError: a list or a file is missing. ValueError: a line is none."""
    train, test = (_read(root / f"nyu_{split}.txt") for split in ("train", "test"))
    return EvalRecords(PairedFiles(root, train, "depth"), PairedFiles(root, test, "depth"))


def _read(path: Path) -> list[tuple[str, str]]:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; it comes with the images as BTS (arXiv:1907.10326) lists them"
        )
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if len(words) not in (2, 3):
            raise ValueError(
                f"{path}, line {number}: {line!r} is not 'IMAGE DEPTH FOCAL', as in "
                "'bathroom/rgb_00045.jpg bathroom/sync_depth_00045.png 518.8579'"
            )
        if words[1] != "None":  # BTS writes so where there is no depth
            image, depth = (word.lstrip("/") for word in words[:2])
            pairs.append((image, depth))
    return pairs
