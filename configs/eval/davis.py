"""DAVIS 2017: masks of the first frame carried through a video, as DINOv3 publishes it.

    python -m dinojax.evaluate --checkpoint=CHECKPOINT --config=configs/eval/davis.py \\
        --data=/data/DAVIS --workdir=scores/davis

Data: DAVIS-2017-trainval-480p. Nothing is trained. J&F over the objects of the 30 validation
videos. Frames at a shorter side of 960 px (the paper's M; S is 480, L 1440):
``--config.propagation.short_px=480`` for S.

Expected (`published` below): arXiv:2508.10104, tables 5 and 14; 7B: 0.711 at S, 0.797 at M and
0.833 at L.
"""

from dinojax.config_eval import default_config

SOURCE = "arXiv:2508.10104, tables 5 and 14"
J_AND_F = {
    "vits16": 0.727,
    "vits16plus": 0.755,
    "vitb16": 0.772,
    "vitl16": 0.799,
    "vith16plus": 0.793,
    "vit7b16": 0.797,
}


def get_config():
    config = default_config()
    config.tasks = ("propagation",)
    config.records.layout = "davis"
    config.records.max_train = config.records.max_test = 0
    config.images.image_px = 960
    config.propagation.short_px, config.propagation.canvas_px = 960, 2048
    config.published = tuple((arch, "propagation_jf", jf, SOURCE) for arch, jf in J_AND_F.items())
    return config
