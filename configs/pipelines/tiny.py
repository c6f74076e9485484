"""Every stage of a DINOv3 recipe at toy size, on the embedded `scenes`: minutes on two CPU cores.

Command:  python -m dinojax.pipeline --config=configs/pipelines/tiny.py --workdir=runs/tiny
Before:   the same with --dry_run, which prints what would run and why

Pretraining keeps snapshots of the EMA teacher, which are ranked by their dense features; the Gram
stage goes on from the end and is anchored to the best of them; the teacher then learns two higher
resolutions; a small ViT and a ConvNeXt are distilled from it at once; all three are scored and
exported.

The sizes show that the stages fit together; the scores mean little. ConvNeXt has a patch token
every 32 px, so the ViT beside it has patches of 32 px, and the teacher of patches of 8 px sees the
crops at a fourth of their sides.
"""

from pathlib import Path
from typing import Any

import ml_collections

from dinojax.recipes import set_constant
from dinojax.stages.declare import evaluate, export, pipeline, recipe, snapshots, train

QUICKSTART = Path(__file__).parents[1] / "quickstart.py"
STEPS = {"pretrain": 60, "gram": 20, "high_res": 20, "distil": 40}
TEACHER = {"arch": "vits16", "embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 8}
STUDENTS = (
    ("vit", (("student.embed_dim", 48),)),
    (
        "convnext",
        (
            *(("student.arch", "convnext_tiny"), ("student.embed_dim", None)),
            *(("student.depth", None), ("student.num_heads", None), ("student.patch_size", None)),
            *(("student.n_storage_tokens", None), ("student.depths", (1, 1, 1, 1))),
            *(("student.dims", (8, 16, 32, 64)), ("optim.lr.peak", 2e-3)),
        ),
    ),
)


def get_config() -> ml_collections.ConfigDict:
    return pipeline(
        train("pretrain", _pretrain()),
        snapshots("ranking", workdir="stage:pretrain"),
        train("gram", _gram(), after=("ranking",)),
        train("high_res", _high_res()),
        train("distil", _distil()),
        evaluate("teacher_scores", checkpoint="stage:high_res", tasks=("knn", "segmentation")),
        evaluate("vit_scores", checkpoint="stage:distil#vit"),
        evaluate("convnext_scores", checkpoint="stage:distil#convnext"),
        export("teacher_file", checkpoint="stage:high_res"),
        export("vit_file", checkpoint="stage:distil#vit"),
        export("convnext_file", checkpoint="stage:distil#convnext"),
    )


def _pretrain() -> Any:
    config = recipe(QUICKSTART)
    config.student.update(TEACHER)
    for head in (config.dino.head, config.ibot.head):
        head.hidden_dim, head.bottleneck_dim = 128, 32
    config.crops.local_crops_number = 2
    config.data.scenes.num_images = 1024
    config.knn.max_bank = config.knn.max_queries = 400
    config.optim.teacher_temp.warmup_steps = 40
    _take(config, STEPS["pretrain"])
    config.checkpoint.snapshot_every_steps = 20
    return config


def _gram() -> Any:
    """Goes on under schedules of the whole run, as the published stage does."""
    config = _pretrain()
    _take(config, STEPS["pretrain"] + STEPS["gram"])
    config.checkpoint.snapshot_every_steps = None
    config.init["from"], config.init.resume = "stage:pretrain", True
    config.crops.gram_teacher_crops_size = 64
    config.crops.gram_teacher_no_distortions = True
    config.gram.use_loss = config.gram.img_level = True
    config.gram.teacher = "auto"
    return config


def _high_res() -> Any:
    config = _gram()
    _take(config, STEPS["high_res"])
    config.init["from"], config.init.resume = "stage:gram", False
    config.gram.teacher = "stage:gram"
    crops = config.crops
    crops.global_crops_size, crops.local_crops_size = (48, 64), (24, 32)
    crops.gram_teacher_crops_size = (64, 96)
    crops.global_local_crop_pairs_ratios = (0.5, 0.5)
    config.data.canvas_px = 96
    set_constant(config.optim.teacher_temp, 0.02)
    return config


def _distil() -> Any:
    config = _pretrain()
    _take(config, STEPS["distil"])
    config.checkpoint.snapshot_every_steps = None
    distillation = config.distillation
    distillation.teacher = "stage:high_res"
    for key in (*TEACHER, "n_storage_tokens", "layerscale", "init_std"):
        distillation.backbone[key] = config.student[key]
    for ours, theirs in (
        (config.dino.head, distillation.dino_head),
        (config.ibot.head, distillation.ibot_head),
    ):
        theirs.update(ours)
    config.student.patch_size = 32
    distillation.students = STUDENTS
    config.crops.global_crops_size, config.crops.local_crops_size = 96, 32
    config.crops.teacher_to_student_resolution_scale = 4.0
    config.data.canvas_px = 96
    set_constant(config.optim.teacher_temp, 0.02)
    return config


def _take(config: Any, steps: int) -> None:
    config.train.steps = steps
    config.train.rollback_after = 0  # as far as three checkpoints do not reach back
    config.knn.every_steps = steps
    config.checkpoint.every_steps = 10
