"""What the name of a file in a folder or tar says: an image, something beside one, or neither."""

from collections import Counter

from absl import logging

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp"),
    *(".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".npy"),
)
"""Of all that `decode.py` reads, in lower case. The bytes decide which codec reads a file."""

SIDECARS = {
    ".seg.png": "segmentation",
    ".seg.npy": "segmentation",
    ".depth.png": "depth",
    ".depth.npy": "depth",
    ".cls": "label",
}
"""Ends of the names of what goes with an image."""

MAP_ENDS = (".seg", ".depth")
"""Of the stems of maps. Those of a suffix that is not among `SIDECARS` are no images either."""

TEXT_SUFFIXES = (".json", ".txt")
"""Metadata and captions beside images, as WebDataset has them: left alone without a word."""

SHOWN = 5


def sidecar_suffix(name: str) -> str | None:
    """Which of `SIDECARS` the name ends with."""
    lower = name.lower()
    return next((suffix for suffix in SIDECARS if lower.endswith(suffix)), None)


def sample_key(name: str) -> str:
    """What all files of one WebDataset sample share: the name up to the first dot of its file."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def is_part(name: str) -> bool:
    """Whether a file belongs to a record, by its name."""
    lower = name.lower()
    if lower.endswith(IMAGE_SUFFIXES) and not lower.rpartition(".")[0].endswith(MAP_ENDS):
        return True
    return sidecar_suffix(name) is not None


class LeftOut:
    """Counts the files that are no part of any record.

    Args:
        where: they are, for the log.
    """

    def __init__(self, where: str):
        self._where = where
        self._counts: Counter[str] = Counter()
        self._example = ""

    def keep(self, name: str) -> bool:
        """Whether `name` is part of a record; counts it otherwise.

        Dot files (``._x.jpg`` of macOS archives) are not, and not worth a word either.
        """
        if name.rpartition("/")[2].startswith("."):
            return False
        if is_part(name):
            return True
        if not name.lower().endswith(TEXT_SUFFIXES):
            self.add(name)
        return False

    def add(self, name: str) -> None:
        _, dot, suffix = name.rpartition("/")[2].rpartition(".")
        self._counts[dot + suffix.lower() if dot else "no suffix"] += 1
        self._example = min(self._example or name, name)

    def log(self) -> None:
        """One line with how many there are, of which suffixes; none if there are none."""
        if self._counts:
            kinds = [f"{count} {kind}" for kind, count in self._counts.most_common(SHOWN)]
            logging.warning(
                "%s: %d files are left out (%s%s), e.g. %r; images are %s",
                self._where,
                self._counts.total(),
                ", ".join(kinds),
                ", ..." if len(self._counts) > SHOWN else "",
                self._example,
                " ".join(IMAGE_SUFFIXES),
            )
