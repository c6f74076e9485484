"""Places205 and Places365: the linear probe of DINOv2.

Command:  python -m dinojax.evaluate --config=configs/eval/places.py --checkpoint=X --data=DIR
Layout:   205: DIR/train_places205.csv, DIR/val_places205.csv and the images, DIR/images256/...;
          365: a folder per class, DIR/train/... and DIR/val/...
Cost:     as in1k.py for 2.4 M (205) or 1.8 M (365) training images

The protocol is that of in1k.py. For Places365 no score of these models is known to us.
"""

from typing import Any

from dinojax.config.evaluation import default_config
from dinojax.recipes import set_dinov2_probe

PUBLISHED = {"205": (("vitg14", "linear_top1", 0.675, "arXiv:2304.07193"),), "365": ()}
LAYOUTS = {"205": "places205", "365": "class_folders"}


def get_config(version: str = "205") -> Any:
    if version not in LAYOUTS:
        raise ValueError(f"places:{version} is unknown; use one of {tuple(LAYOUTS)}")
    config = default_config()
    config.tasks = ("linear",)
    set_dinov2_probe(config, LAYOUTS[version])
    config.published = PUBLISHED[version]
    return config
