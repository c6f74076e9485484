"""A DINOv3 run on the embedded `scenes` dataset: no download, a few minutes on two CPU cores.

Command:  python -m dinojax.train --config=configs/quickstart.py --workdir=runs/quickstart
"""

import ml_collections

from dinojax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.student.arch = "vits16"
    config.student.embed_dim = 128
    config.student.depth = 4
    config.student.num_heads = 4
    config.student.patch_size = 8
    config.student.n_storage_tokens = 1
    config.student.drop_path_rate = 0.0
    config.student.layerscale = 1.0  # 1e-5 takes thousands of steps to wake up

    for head in (config.dino.head, config.ibot.head):
        head.n_prototypes = 128
        head.hidden_dim = 256
        head.bottleneck_dim = 64

    config.crops.global_crops_size = 48
    config.crops.local_crops_size = 24
    config.crops.local_crops_number = 4

    steps = 800
    config.train.steps = steps
    config.train.batch_size = 32
    config.train.draw_group_size = 32
    config.train.precision = "float32"

    optim = config.optim
    optim.scaling_rule = "none"
    optim.lr.peak = 2e-3
    optim.lr.warmup_steps = 50
    optim.freeze_last_layer_steps = 0
    optim.weight_decay.end = 0.1
    optim.momentum.peak = 0.98
    optim.teacher_temp.peak = optim.teacher_temp.end = 0.04
    optim.teacher_temp.warmup_steps = 0
    optim.layerwise_decay = 1.0
    optim.patch_embed_lr_mult = 1.0

    config.data.canvas_px = 64
    config.data.scenes.num_images = 4096
    config.data.scenes.image_px = 64
    config.knn.every_steps = 400
    config.knn.image_px = 64
    config.knn.max_bank = 2000
    config.checkpoint.every_steps = 400
    return config
