"""The defaults, to change keys of: any labelled images, or those of the run.

Command:  python -m dinojax.evaluate --config=configs/eval/own.py --checkpoint=runs/x
              --tasks=knn,linear --config.linear.iterations=1000
"""

from typing import Any

from dinojax.config.evaluation import default_config


def get_config() -> Any:
    return default_config()
