"""Dense tasks on the embedded scenes, sized for a machine with nothing on it.

    python -m dinojax.evaluate --checkpoint=random:vits16 --config=configs/eval/scenes.py \\
        --data=scenes:2048 --image_px=64 --workdir=scores/scenes

Segmentation in closed form, a depth head of 400 steps, correspondence under known warps and object
discovery. The numbers order models on this machine; nobody has published any to compare with.
"""

from dinojax.config_eval import default_config


def get_config():
    config = default_config()
    config.tasks = ("segmentation", "depth", "correspondence", "discovery")
    config.images.batch_size = 64
    depth = config.depth
    depth.bins.nearest, depth.bins.farthest, depth.bins.count = 0.5, 10.0, 64
    depth.learning_rate, depth.steps, depth.warmup_steps = 1e-2, 400, 50
    return config
