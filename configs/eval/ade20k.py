"""ADE20K semantic segmentation with a linear head, as DINOv3 and DINOv2 publish it.

    python -m dinojax.evaluate --checkpoint=CHECKPOINT --config=configs/eval/ade20k.py \\
        --data=/data/ADEChallengeData2016 --workdir=scores/ade20k
    ... --config=configs/eval/ade20k.py:dinov2_ms    # or :dinov2

Data: the scene parsing challenge, ``images/training``, ``annotations/training`` and the same of
``validation``. Cost: three seeds of 40,000 steps of 16 crops at 512 px, forward only through the
backbone. Mean IoU over 150 classes; a seed's spread is reported beside it.

Expected (`published` below): DINOv3, arXiv:2508.10104, tables 3 and 14; DINOv2, arXiv:2304.07193,
table of linear segmentation ("lin." and "+ms"). DINOv3's paper tries several learning rates and
weight decays and takes the best on the validation set; here it is the pair of its code. Of DINOv2,
whose configuration is not part of its code, layers, scales and schedule are known; hues turn by
36 degrees at most there and by any angle here.
"""

from dinojax.config_eval import default_config

SOURCE = "arXiv:2508.10104, tables 3 and 14"
DINOV3 = {
    "vits16": 0.470,
    "vits16plus": 0.488,
    "vitb16": 0.518,
    "vitl16": 0.549,
    "vith16plus": 0.548,
    "vit7b16": 0.559,
}
DINOV2 = {"vits14": 0.443, "vitb14": 0.473, "vitl14": 0.477, "vitg14": 0.490}
DINOV2_MS = {"vits14": 0.472, "vitb14": 0.513, "vitl14": 0.531, "vitg14": 0.530}


def get_config(protocol: str = "dinov3"):
    config = default_config()
    config.tasks = ("segmentation",)
    config.records.layout = "ade20k"
    config.records.max_train = config.records.max_test = 0
    config.images.image_px = 512
    config.images.batch_size = 16
    section = config.segmentation
    section.head = "linear"
    section.classes = (1, 150)  # 0 is unlabelled
    linear = section.linear
    linear.crop_px, linear.stride_px, linear.canvas_px = 512, 341, 2048
    scores, source = DINOV3, SOURCE
    if protocol in ("dinov2", "dinov2_ms"):
        config.images.image_px = 518  # for patches of 14 px; crops are padded to whole ones
        linear.schedule, linear.weight_decay, linear.dropout = "poly", 1e-4, 0.0
        scores, source = DINOV2, "arXiv:2304.07193, linear"
    elif protocol != "dinov3":
        raise ValueError(f"protocol {protocol!r} is unknown; use dinov3, dinov2 or dinov2_ms")
    if protocol == "dinov2_ms":
        linear.layers, linear.crop_px, linear.stride_px = 4, 640, 320
        linear.test_scales, linear.test_flip = (1.0, 1.32, 1.73), True
        scores, source = DINOV2_MS, "arXiv:2304.07193, +ms"
    config.published = tuple(
        (arch, "segmentation_miou", score, source) for arch, score in scores.items()
    )
    return config
