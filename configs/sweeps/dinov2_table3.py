"""What KoLeo and masked patches bring: table 3 of arXiv:2304.07193.

Command:  python launch/sweep.py run configs/sweeps/dinov2_table3.py --on=slurm \\
              --workdir=runs/table3
Results:  python launch/sweep.py collect runs/table3 --sort=knn_trained
Cost:     3 runs of configs/dinov2_vitg14.py. The paper's were shorter than its best run, and it
          does not say how long.

None of these runs has been made with this code.
"""

from collections.abc import Iterator
from typing import Any

CONFIG = "configs/dinov2_vitg14.py"
DATA = {"data.source": "array_record:/data/lvd142m"}


def get_sweep() -> Iterator[dict[str, Any]]:
    """Scores of the paper: ImageNet-1k / ImageNet-A / ADE20k / Oxford-M."""
    # 85.8 / 72.8 / 47.1 / 63.9: with both, the lower rows of tables 3a and 3b
    yield dict(DATA)
    # 85.3 / 70.6 / 47.2 / 55.6
    yield {**DATA, "dino.koleo_loss_weight": 0.0}
    # 85.3 / 72.0 / 44.2 / 64.3
    yield {**DATA, "ibot.loss_weight": 0.0}
