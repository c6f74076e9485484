"""Revisited Oxford and Paris (arXiv:1803.11285): images ``jpg/NAME.jpg``, judgements in one file.

The judgements are published as a pickle, ``gnd_roxford5k.pkl``, which can hold code and is not read
here. Write it as JSON once, where you trust it:

    python -c "import json, pickle; json.dump(pickle.load(open('gnd_roxford5k.pkl', 'rb')),
    open('gnd_roxford5k.json', 'w'), default=lambda array: array.tolist())"

It has ``imlist`` (what is searched), ``qimlist`` (queries) and ``gnd``: for each query ``bbx``, the
part of the image that is asked for (left, top, right, bottom), and places in ``imlist`` of
``easy``, ``hard`` and ``junk`` images.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinojax.data.decode import read_image
from dinojax.data.eval_records import EvalRecords, Judged
from dinojax.data.listed import ListedFiles
from dinojax.data.records import Record

WHOLE = 2**15
"""A canvas that no photo is shrunk for."""


class Cut:
    """Images of a source, each cut to a box (left, top, right, bottom) of its pixels."""

    class_names = None

    def __init__(self, source: ListedFiles, boxes: Sequence[Sequence[float]]):
        self._source, self._boxes = source, boxes

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        image = read_image(record, WHOLE)
        left, top, right, bottom = (round(edge) for edge in self._boxes[index])
        part = image[max(top, 0) : bottom, max(left, 0) : right]
        if not part.size:
            raise ValueError(f"record {record.id!r}: its box {self._boxes[index]} is empty")
        return Record(image=np.ascontiguousarray(part), id=record.id)

    def record_id(self, index: int) -> str:
        return self._source.record_id(index)


def open_revisited(root: Path, name: str) -> EvalRecords:
    """Raises: FileNotFoundError: no judgements. ValueError: they are not of this form.

    Args:
        name: ``roxford5k`` or ``rparis6k``.
    """
    path = root / f"gnd_{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f'{path} is missing; make it of the published gnd_{name}.pkl by: python -c "import '
            f"json, pickle; json.dump(pickle.load(open('gnd_{name}.pkl', 'rb')), "
            f"open('gnd_{name}.json', 'w'), default=lambda array: array.tolist())\""
        )
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        files = {key: [f"{one}.jpg" for one in content[key]] for key in ("imlist", "qimlist")}
        judged = tuple(
            Judged(*(np.array(one[kind], np.int64) for kind in ("easy", "hard", "junk")))
            for one in content["gnd"]
        )
        boxes = [tuple(float(edge) for edge in one["bbx"]) for one in content["gnd"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no judgements ({type(error).__name__}: {error}); write it anew"
        ) from error
    beyond = max((int(part.max(initial=-1)) for one in judged for part in one), default=-1)
    if len(judged) != len(files["qimlist"]) or beyond >= len(files["imlist"]):
        raise ValueError(
            f"{path} judges {len(judged)} queries of {len(files['qimlist'])} and names the place "
            f"{beyond} of {len(files['imlist'])} images; write it anew"
        )
    queries = ListedFiles(root / "jpg", files["qimlist"])
    return EvalRecords(
        ListedFiles(root / "jpg", files["imlist"]), Cut(queries, boxes), judged=judged
    )
