"""NYU depth v2 with a linear head, as DINOv3 publishes it (arXiv:2508.10104, section 6.1.2).

Command:  python -m dinojax.evaluate --config=configs/eval/nyuv2.py --checkpoint=X --data=DIR
Layout:   DIR/nyu_train.txt and DIR/nyu_test.txt of BTS (arXiv:1907.10326), and below DIR what they
          list: images of 640x480 and depth as 16-bit PNG
Cost:     three seeds of 38,400 steps of 16 crops of 416x544, forward only through the backbone

RMSE in metres over Eigen's crop, lower is better. The paper tries several learning rates and weight
decays and takes the best; here it is the pair of its code.
"""

from typing import Any

from dinojax.config.evaluation import default_config

SOURCE = "arXiv:2508.10104, tables 3 and 14"
RMSE = {
    "vits16": 0.403,
    "vits16plus": 0.399,
    "vitb16": 0.373,
    "vitl16": 0.352,
    "vith16plus": 0.352,
    "vit7b16": 0.309,
}


def get_config() -> Any:
    config = default_config()
    config.tasks = ("depth",)
    config.records.layout = "nyuv2"
    config.records.max_train = config.records.max_test = 0
    config.images.image_px = 480
    depth = config.depth
    depth.frame_hw, depth.canvas_px = (480, 640), 640
    depth.train_box = (45, 43, 472, 608)  # without the white rim
    depth.crop_hw = (416, 544)
    depth.test_box = (45, 41, 471, 601)
    config.published = tuple((arch, "depth_rmse", rmse, SOURCE) for arch, rmse in RMSE.items())
    return config
