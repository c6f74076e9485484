"""Which learning rate the quickstart likes, over two seeds.

Command:  python launch/sweep.py run configs/sweeps/quickstart_lr.py --workdir=runs/quickstart_lr
Results:  python launch/sweep.py collect runs/quickstart_lr
Cost:     6 runs of about 4 minutes on two CPU cores.
"""

from collections.abc import Iterator
from typing import Any

CONFIG = "configs/quickstart.py"


def get_sweep() -> Iterator[dict[str, Any]]:
    for peak in (5e-4, 1e-3, 2e-3):
        for seed in (0, 1):
            yield {"optim.lr.peak": peak, "train.seed": seed}
