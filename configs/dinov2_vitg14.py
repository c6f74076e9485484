"""DINOv2 ViT-g/14, first stage: pretraining at 224 px.

Command:   python -m dinojax.train --config=configs/dinov2_vitg14.py \
               --config.data.source='array_record:/data/lvd142m' --workdir=runs/dinov2_vitg14
Shrunk:    --config=configs/dinov2_vitg14.py:debug (no data needed)
Hardware:  12 images per GPU (the reference's vitg14.yaml) of 3,072 are 256 GPUs; it took 22,016
           hours of A100-40GB (arXiv:2304.07193, table 14) for 625,000 steps.
Cost:      5,840 to 9,734 chip-hours of v6e at 50 to 30 % of its peak, an assumption
           (python -m dinojax.plan --topology=v6e:8x8).
Expected:  no score of this stage alone is published. After configs/dinov2_vitg14_high_res.py and on
           LVD-142M, which is private: 83.5 kNN, 86.5 linear on ImageNet-1k (arXiv:2304.07193, table
           4). Not yet reproduced with this code.

Source: the reference's vitg14.yaml, whose data is ImageNet-22k.
"""

import ml_collections

from dinojax.config import default_config
from dinojax.config.shrink import shrink
from dinojax.recipes import set_dinov2_from_scratch


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in ("", "debug"):
        raise ValueError(f"variant {variant!r} is unknown; use none or 'debug'")
    config = default_config()
    set_dinov2_from_scratch(config)
    config.student.arch = "vitg14"
    config.student.remat = "full"
    config.train.draw_group_size = 12
    return shrink(config) if variant == "debug" else config
