"""All layouts, by name."""

import functools
from collections.abc import Callable
from pathlib import Path

from dinojax.data.eval_records import EvalRecords
from dinojax.data.layouts.class_folders import open_class_folders
from dinojax.data.layouts.davis import open_davis
from dinojax.data.layouts.inat import open_inat2018
from dinojax.data.layouts.nyuv2 import open_nyuv2
from dinojax.data.layouts.places import open_places205
from dinojax.data.layouts.real import open_real
from dinojax.data.layouts.revisited import open_revisited
from dinojax.data.layouts.segmentation_folders import open_ade20k, open_camvid

LAYOUTS: dict[str, Callable[[Path], EvalRecords]] = {
    "class_folders": open_class_folders,
    "imagenet_real": open_real,
    "inat2018": open_inat2018,
    "places205": open_places205,
    "roxford5k": functools.partial(open_revisited, name="roxford5k"),
    "ade20k": open_ade20k,
    "camvid": open_camvid,
    "nyuv2": open_nyuv2,
    "davis": open_davis,
    "rparis6k": functools.partial(open_revisited, name="rparis6k"),
}


def open_layout(name: str, root: str) -> EvalRecords:
    """The records of a published dataset below the folder `root`.

    Raises:
        ValueError: no such layout, or what lies there has another.
        FileNotFoundError: a part of it is missing.
    """
    if name not in LAYOUTS:
        raise ValueError(f"records.layout={name!r} is unknown; use one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name](Path(root))
