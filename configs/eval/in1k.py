"""ImageNet-1k: kNN and the linear probe of DINOv2 (arXiv:2304.07193, appendix B.3, and its code).

Command:  python -m dinojax.evaluate --config=configs/eval/in1k.py --checkpoint=X --data=DIR
Layout:   DIR/train/n01440764/*.JPEG and DIR/val/n01440764/*.JPEG
Variants: in1k.py:dinov3 has the probe of DINOv3's code: last layer, always with the mean patch;
          in1k.py:logistic is logistic regression, on images resized to 224
Cost:     11 passes over the training images, one in the middle and 10 random crops, as many as the
          probe has epochs. They are stored: 1.28 M images x 5 vectors x 4 bytes, so 108 GB in all
          for ViT-S and 289 GB for ViT-L. --config.linear.views=0 is one pass, and no longer what
          was published.

As published, the best probe is the one that is best on the validation images themselves; to choose
it on a tenth of the training images, --config.linear.select=held_out.
"""

from typing import Any

from dinojax.config.evaluation import default_config
from dinojax.recipes import set_dinov2_probe

KNN = "arXiv:2304.07193, table 4"
CARD = "README of facebookresearch/dinov2"
PUBLISHED = (
    ("vits14", "knn_top1", 0.790, KNN),
    ("vitb14", "knn_top1", 0.821, KNN),
    ("vitl14", "knn_top1", 0.835, KNN),
    ("vitg14", "knn_top1", 0.835, KNN),
    ("vits14", "linear_top1", 0.811, KNN),
    ("vitb14", "linear_top1", 0.845, KNN),
    ("vitl14", "linear_top1", 0.863, KNN),
    ("vitg14", "linear_top1", 0.865, KNN),
    ("vits14_reg", "knn_top1", 0.791, CARD),
    ("vitb14_reg", "knn_top1", 0.820, CARD),
    ("vitl14_reg", "knn_top1", 0.838, CARD),
    ("vitg14_reg", "knn_top1", 0.837, CARD),
    ("vits14_reg", "linear_top1", 0.809, CARD),
    ("vitb14_reg", "linear_top1", 0.846, CARD),
    ("vitl14_reg", "linear_top1", 0.867, CARD),
    ("vitg14_reg", "linear_top1", 0.871, CARD),
)
"""Of DINOv3's models linear scores are published at 1024 tokens and with another grid only."""

VARIANTS = ("dinov2", "dinov3", "logistic")


def get_config(variant: str = "dinov2") -> Any:
    if variant not in VARIANTS:
        raise ValueError(f"in1k:{variant} is unknown; use one of {VARIANTS}")
    config = default_config()
    config.tasks = ("logistic",) if variant == "logistic" else ("knn", "linear")
    set_dinov2_probe(config, "class_folders")
    if variant == "logistic":
        config.images.resize_px = 224
    if variant == "dinov3":
        config.linear.layers, config.linear.avgpool = (1,), (True,)
    if variant == "dinov2":
        config.published = PUBLISHED
    return config
