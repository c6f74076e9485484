"""From iBOT to DINOv2, one change after the other: table 1 of arXiv:2304.07193.

Command:  python launch/sweep.py run configs/sweeps/dinov2_table1.py --on=slurm \\
              --workdir=runs/table1
Results:  python launch/sweep.py collect runs/table1 --sort=knn_trained
Cost:     11 runs of configs/dinov2_vitl14.py (ViT-L on ImageNet-22k).

The paper names the changes, and the scores (kNN / linear on ImageNet-1k) after each; its first row,
72.9 / 82.3, is iBOT as published. What a value was before its change it does not say, except for
what the names imply: those here are iBOT's (arXiv:2111.07832, ViT-L/16) where it has one, else
choices. None of these runs has been made with this code.
"""

from collections.abc import Iterator
from typing import Any

CONFIG = "configs/dinov2_vitl14.py"
EPOCH = 1250

BEFORE: dict[str, Any] = {
    "student.layerscale": 0.0,
    "student.drop_path_rate": 0.0,
    "student.ffn_layer": "mlp",
    "student.patch_size": 16,
    "student.pos_embed_grid": 14,
    "crops.local_crops_size": 96,
    "dino.head.n_prototypes": 8192,
    "dino.head.bottleneck_dim": 256,
    "ibot.head.n_prototypes": 8192,
    "ibot.separate_head": False,
    "dino.koleo_loss_weight": 0.0,
    "optim.momentum.peak": 0.996,
    "optim.lr.warmup_steps": 10 * EPOCH,
    "train.batch_size": 1024,
    "train.centering": "softmax",
}
"""The authors' reproduction of iBOT, in keys of the recipe, which is the last row."""

CHANGES: tuple[tuple[str, ...], ...] = (
    ("student.layerscale", "student.drop_path_rate"),  # 75.4 / 82.0
    ("dino.head.n_prototypes", "ibot.head.n_prototypes"),  # 76.6 / 81.9
    ("dino.koleo_loss_weight",),  # 78.9 / 82.5
    ("student.ffn_layer",),  # 78.7 / 83.1
    # 78.9 / 83.5
    ("student.patch_size", "student.pos_embed_grid", "crops.local_crops_size"),
    ("optim.momentum.peak",),  # 79.4 / 83.6
    ("optim.lr.warmup_steps",),  # 80.5 / 83.8
    ("train.batch_size",),  # 81.7 / 84.7
    ("train.centering",),  # 81.7 / 84.7
    # 82.0 / 84.5: DINOv2. In the recipe the head of the CLS token is wider, too.
    ("ibot.separate_head", "dino.head.bottleneck_dim"),
)
"""Keys that take the recipe's value, row by row, and the scores with them."""


def get_sweep() -> Iterator[dict[str, Any]]:
    keys = dict(BEFORE)
    yield dict(keys)  # 74.5 / 83.2
    for change in CHANGES:
        for key in change:
            del keys[key]
        yield dict(keys)
