"""ImageNet-1k with the reassessed labels of its validation images (ReaL, arXiv:2006.07159).

Command:  python -m dinojax.evaluate --config=configs/eval/in1k_real.py --checkpoint=X --data=DIR
Layout:   as in1k.py, and DIR/real.json of github.com/google-research/reassessed-imagenet
Cost:     as in1k.py; in the same --workdir the features of the training images are shared

Any of the labels of an image is right; images without a label are left out. DINOv2 reports the
probe that is best on the usual labels; here it is the one that is best on these.
"""

from typing import Any

from dinojax.config.evaluation import default_config
from dinojax.recipes import set_dinov2_probe

TABLE = "arXiv:2304.07193, table 4"
PUBLISHED = (
    ("vits14", "linear_top1", 0.866, TABLE),
    ("vitb14", "linear_top1", 0.883, TABLE),
    ("vitl14", "linear_top1", 0.895, TABLE),
    ("vitg14", "linear_top1", 0.896, TABLE),
)


def get_config() -> Any:
    config = default_config()
    config.tasks = ("linear",)
    set_dinov2_probe(config, "imagenet_real")
    config.published = PUBLISHED
    return config
