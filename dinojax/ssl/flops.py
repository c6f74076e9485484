"""Model FLOPs of training, for the share of the devices' peak that a run reaches."""

from typing import NamedTuple

from dinojax.models.embed import patch_grid
from dinojax.models.flops import backbone_flops, head_flops, projection_flops
from dinojax.ssl.forward import SslModel
from dinojax.ssl.matching import MatchingModel
from dinojax.ssl.prepare import GLOBAL_VIEWS


class ImageFlops(NamedTuple):
    """Matmul FLOPs of one image of a batch, in all its crops."""

    student_backbone: float
    student_heads: float
    teacher_backbone: float
    teacher_heads: float

    @property
    def total(self) -> float:
        return sum(self)


def image_flops(
    model: SslModel,
    *,
    global_px: int,
    local_px: int,
    local_crops: int,
    masked_patches: float,
    channels: int = 3,
    drop_path_rate: float = 0.0,
    gram_px: int = 0,
    frozen: SslModel | None = None,
    teacher_px: int | None = None,
    students: int = 1,
) -> ImageFlops:
    """Of student and teachers.

    The student costs three forward passes (a backward pass is two), the teacher one, on whole
    global crops. Recomputation under `remat` is not counted: model FLOPs are what the method needs.
    Losses, Sinkhorn-Knopp, views and the optimizer are left out.

    Args:
        masked_patches: per image, over all its global crops; the average of the batch.
        local_crops: per image; `local_px` is not read if 0.
        gram_px: side of the crops of a Gram teacher; 0 if there is none but the EMA teacher.
        frozen: the model that gives the targets, if it is not the student's own.
        teacher_px: side of the crops that give the targets; None: `global_px`.
        students: how many share the teacher; this one has its part of it.
    """

    def backbone(model: SslModel, image_px: int, rate: float = 0.0) -> float:
        return backbone_flops(model.backbone, image_px, channels=channels, drop_path_rate=rate)

    def heads(model: SslModel, crops: int) -> float:
        width = model.backbone.embed_dim
        patches = masked_patches * head_flops(model.patch_head, width)
        return crops * head_flops(model.dino_head, width) + patches

    seen = frozen or model
    teacher = GLOBAL_VIEWS * backbone(seen, teacher_px or global_px) / students
    if gram_px:
        teacher += GLOBAL_VIEWS * backbone(model, gram_px)
    student = GLOBAL_VIEWS * backbone(model, global_px, drop_path_rate)
    if local_crops:
        student += local_crops * backbone(model, local_px, drop_path_rate)
    return ImageFlops(
        student_backbone=3 * student,
        student_heads=3 * heads(model, GLOBAL_VIEWS + local_crops),
        teacher_backbone=teacher,
        teacher_heads=heads(seen, GLOBAL_VIEWS) / students,
    )


def matching_flops(
    model: MatchingModel,
    frozen: MatchingModel,
    *,
    global_px: int,
    teacher_px: int,
    channels: int = 3,
    drop_path_rate: float = 0.0,
    students: int = 1,
) -> ImageFlops:
    """As `image_flops`, of distillation by features; the projections are the student's heads."""
    assert model.cls_projection is not None and model.patch_projection is not None
    rows, columns = patch_grid(global_px, global_px, model.backbone.stride)
    width = model.backbone.embed_dim
    heads = projection_flops(model.cls_projection, width)
    heads += rows * columns * projection_flops(model.patch_projection, width)
    student = backbone_flops(
        model.backbone, global_px, channels=channels, drop_path_rate=drop_path_rate
    )
    teacher = backbone_flops(frozen.backbone, teacher_px, channels=channels)
    return ImageFlops(
        student_backbone=3 * GLOBAL_VIEWS * student,
        student_heads=3 * GLOBAL_VIEWS * heads,
        teacher_backbone=GLOBAL_VIEWS * teacher / students,
        teacher_heads=0,
    )
