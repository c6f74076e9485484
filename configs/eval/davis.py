"""DAVIS 2017: masks of the first frame carried through a video (arXiv:2508.10104, section 6.1.5).

Command:  python -m dinojax.evaluate --config=configs/eval/davis.py --checkpoint=X --data=DIR
Layout:   DIR/JPEGImages/480p/SEQ/*.jpg, DIR/Annotations/480p/SEQ/*.png and
          DIR/ImageSets/2017/val.txt, as in DAVIS-2017-trainval-480p
Cost:     nothing is trained; one pass over the frames of 30 videos at 960 px

Mean of J and F over the objects. Frames have a shorter side of 960 px, the paper's M;
--config.propagation.short_px=480 is its S (7B: 0.711 instead of 0.797), 1440 its L (0.833).
"""

from typing import Any

from dinojax.config.evaluation import default_config

SOURCE = "arXiv:2508.10104, tables 5 and 14"
J_AND_F = {
    "vits16": 0.727,
    "vits16plus": 0.755,
    "vitb16": 0.772,
    "vitl16": 0.799,
    "vith16plus": 0.793,
    "vit7b16": 0.797,
}


def get_config() -> Any:
    config = default_config()
    config.tasks = ("propagation",)
    config.records.layout = "davis"
    config.records.max_train = config.records.max_test = 0
    config.images.image_px = 960
    config.propagation.short_px, config.propagation.canvas_px = 960, 2048
    config.published = tuple((arch, "propagation_jf", jf, SOURCE) for arch, jf in J_AND_F.items())
    return config
