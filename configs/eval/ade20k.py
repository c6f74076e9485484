"""ADE20K: semantic segmentation with a linear head, as DINOv3 and DINOv2 publish it.

Command:  python -m dinojax.evaluate --config=configs/eval/ade20k.py --checkpoint=X --data=DIR
Variants: ade20k.py:dinov2 and ade20k.py:dinov2_ms (four layers, 640 px, several scales, flips)
Layout:   DIR/images/training/*.jpg, DIR/annotations/training/*.png and the same of validation, as
          in ADEChallengeData2016
Cost:     three seeds of 40,000 steps of 16 crops at 512 px, forward only through the backbone

Mean IoU over 150 classes. DINOv3's paper tries several learning rates and weight decays and takes
the best on the validation images; here it is the pair of its code. DINOv2's configuration is not
part of its code: layers, sizes, scales, schedule and weight decay are as known, but hues turn by 36
degrees at most there and by any angle here.
"""

from typing import Any

from dinojax.config.evaluation import default_config

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


VARIANTS = {
    "dinov3": (DINOV3, SOURCE),
    "dinov2": (DINOV2, "arXiv:2304.07193, table 10, lin."),
    "dinov2_ms": (DINOV2_MS, "arXiv:2304.07193, table 10, +ms"),
}


def get_config(variant: str = "dinov3") -> Any:
    if variant not in VARIANTS:
        raise ValueError(f"ade20k:{variant} is unknown; use one of {tuple(VARIANTS)}")
    config = default_config()
    config.tasks = ("segmentation",)
    config.records.layout = "ade20k"
    config.records.max_train = config.records.max_test = 0
    # Not what is seen: patches of 14 px do not divide 512, and crops are padded to whole ones.
    config.images.image_px = 512 if variant == "dinov3" else 518
    config.segmentation.head = "linear"
    config.segmentation.classes = (1, 150)  # 0 is unlabelled
    linear = config.segmentation.linear
    linear.crop_px, linear.stride_px, linear.canvas_px = 512, 341, 2048
    if variant != "dinov3":
        linear.schedule, linear.weight_decay, linear.dropout = "poly", 1e-4, 0.0
    if variant == "dinov2_ms":
        linear.layers, linear.crop_px, linear.stride_px = 4, 640, 320
        linear.test_scales, linear.test_flip = (1.0, 1.32, 1.73), True
    scores, source = VARIANTS[variant]
    config.published = tuple(
        (arch, "segmentation_miou", score, source) for arch, score in scores.items()
    )
    return config
