"""Which images DINOv2 is trained on: table 2 of arXiv:2304.07193.

Command:  python launch/sweep.py run configs/sweeps/dinov2_table2.py --on=slurm \\
              --workdir=runs/table2
Results:  python launch/sweep.py collect runs/table2 --sort=knn_trained
Cost:     4 runs of configs/dinov2_vitg14.py. The paper's were shorter than its best run, and it
          does not say how long: --config.train.steps and the warm-ups in the recipe.

LVD-142M and the 142 million images that were not chosen are private: the names stand for your own
sources (docs/data.md). None of these runs has been made with this code.
"""

from collections.abc import Iterator
from typing import Any

CONFIG = "configs/dinov2_vitg14.py"


def get_sweep() -> Iterator[dict[str, Any]]:
    """Scores of the paper: ImageNet-1k / ImageNet-A / ADE20k / Oxford-M / iNaturalist 2018 /
    iNaturalist 2021 / Places205."""
    # 85.9 / 73.5 / 46.6 / 62.5 / 81.1 / 85.6 / 67.0
    yield {"data.source": "/data/imagenet22k"}
    # 85.3 / 70.3 / 46.2 / 58.7 / 80.1 / 85.1 / 66.5
    yield {"data.source": "/data/imagenet22k_without_1k"}
    # 83.3 / 59.4 / 48.5 / 54.3 / 68.0 / 76.4 / 67.2
    yield {"data.source": "array_record:/data/uncurated142m"}
    # 85.8 / 73.9 / 47.7 / 64.6 / 82.3 / 86.4 / 67.6
    yield {"data.source": "array_record:/data/lvd142m"}
