"""CamVid, 11 classes of street scenes: segmentation, and its labels carried from frame to frame.

Command:  python -m dinojax.evaluate --config=configs/eval/camvid.py --checkpoint=X --data=DIR
Layout:   DIR/train/images/*.jpg, DIR/train/labels/*.png and the same of val, as SegNet's authors
          (arXiv:1511.00561) cut it: classes 0..10, 11 is unlabelled; frames 480x360
Cost:     minutes: segmentation is in closed form, and propagation trains nothing

Frames are a second apart, so more moves between two of them than in DAVIS. No score of a linear
head on these frames is published for the models here.
"""

from typing import Any

from dinojax.config.evaluation import default_config


def get_config() -> Any:
    config = default_config()
    config.tasks = ("segmentation", "propagation")
    config.records.layout = "camvid"
    config.records.max_train = config.records.max_test = 0
    config.images.batch_size = 32
    config.segmentation.classes = (0, 10)
    config.propagation.ignored = (11,)
    return config
