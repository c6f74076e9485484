"""iNaturalist 2018 and 2021: the linear probe of DINOv2.

Command:  python -m dinojax.evaluate --config=configs/eval/inat.py:2018 --checkpoint=X --data=DIR
Layout:   2018: DIR/train2018.json, DIR/val2018.json and the images, DIR/train_val2018/...;
          2021: a folder per class, DIR/train/... and DIR/val/...
Cost:     as in1k.py for 438 k (2018) or 2.7 M (2021) training images

The protocol is that of in1k.py (arXiv:2304.07193, section 7.1, evaluates both alike).
"""

from typing import Any

from dinojax.config.evaluation import default_config
from dinojax.recipes import set_dinov2_probe

CARD = "DINOv2's model card"
PUBLISHED = {
    "2018": (
        ("vits14", "linear_top1", 0.695, CARD),
        ("vitb14", "linear_top1", 0.763, CARD),
        ("vitl14", "linear_top1", 0.798, CARD),
        ("vitg14", "linear_top1", 0.816, "arXiv:2304.07193"),
        ("vits14_reg", "linear_top1", 0.676, CARD),
        ("vitb14_reg", "linear_top1", 0.738, CARD),
        ("vitl14_reg", "linear_top1", 0.809, CARD),
        ("vitg14_reg", "linear_top1", 0.815, CARD),
    ),
    "2021": (("vitg14", "linear_top1", 0.857, "arXiv:2304.07193"),),
}
LAYOUTS = {"2018": "inat2018", "2021": "class_folders"}


def get_config(year: str = "2018") -> Any:
    if year not in LAYOUTS:
        raise ValueError(f"inat:{year} is unknown; use one of {tuple(LAYOUTS)}")
    config = default_config()
    config.tasks = ("linear",)
    set_dinov2_probe(config, LAYOUTS[year])
    config.published = PUBLISHED[year]
    return config
