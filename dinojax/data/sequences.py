"""Which records of a source are frames of one video: told by their names.

The number at the end of a name is the frame's, what precedes it the video's: ``bear/00012.jpg`` is
frame 12 of ``bear/``, ``0001TP_006690.jpg`` frame 6690 of ``0001TP_``.
"""

import re

from dinojax.data.source import Source

FRAME = re.compile(r"(.*?)(\d+)(\.\w+)?$", re.S)


def find_sequences(source: Source) -> dict[str, list[int]]:
    """Records of each video in the order of its frames; by name, of two frames and more."""
    found: dict[str, list[tuple[int, int]]] = {}
    for index in range(len(source)):
        match = FRAME.match(source.record_id(index))
        if match is not None:
            found.setdefault(match[1], []).append((int(match[2]), index))
    return {
        name: [index for _, index in sorted(frames)]
        for name, frames in sorted(found.items())
        if len(frames) > 1
    }
