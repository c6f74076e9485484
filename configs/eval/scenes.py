"""Tasks on maps with the embedded scenes, sized for a machine with no data on it.

Command:  python -m dinojax.evaluate --config=configs/eval/scenes.py --checkpoint=X
              --data=scenes:512 --image_px=64
Cost:     minutes on a CPU for a small backbone

Segmentation in closed form, a depth head of 300 steps, and correspondence under known warps. Not
discovery: the objects of a scene touch, and a box of the whole image finds one in 92 % of them.
Depths are of two kinds, objects at 1.5 to 2.5 m before a ground at 4 to 7: an RMSE of 1.7 m is
what a constant has, and delta1 says little. Nobody has published numbers to compare with.
"""

from typing import Any

from dinojax.config.evaluation import default_config


def get_config() -> Any:
    config = default_config()
    config.tasks = ("segmentation", "depth", "correspondence")
    config.images.batch_size = 64
    depth = config.depth
    depth.bins.nearest, depth.bins.farthest, depth.bins.count = 0.5, 10.0, 64
    depth.learning_rate, depth.steps, depth.warmup_steps = 5e-2, 300, 50
    depth.canvas_px = 64  # as large as these scenes are
    return config
