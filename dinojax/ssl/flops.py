"""Model FLOPs of training, for the share of the devices' peak that a run reaches."""

from typing import NamedTuple

from dinojax.models.flops import backbone_flops, head_flops
from dinojax.ssl.forward import SslModel


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
    global_crops: int = 2,
    channels: int = 3,
    drop_path_rate: float = 0.0,
) -> ImageFlops:
    """Of student and teacher.

    The student costs three forward passes (a backward pass is two), the teacher one, on whole
    global crops. Recomputation under `remat` is not counted: model FLOPs are what the method needs.
    Losses, Sinkhorn-Knopp, views and the optimizer are left out.

    Args:
        masked_patches: per image, over all its global crops; the average of the batch.
        local_crops: per image; `local_px` is not read if 0.
    """
    width = model.backbone.embed_dim

    def backbone(image_px: int, rate: float) -> float:
        return backbone_flops(model.backbone, image_px, channels=channels, drop_path_rate=rate)

    cls = head_flops(model.dino_head, width)
    patches = masked_patches * head_flops(model.ibot_head, width)
    student = global_crops * backbone(global_px, drop_path_rate)
    if local_crops:
        student += local_crops * backbone(local_px, drop_path_rate)
    return ImageFlops(
        student_backbone=3 * student,
        student_heads=3 * ((global_crops + local_crops) * cls + patches),
        teacher_backbone=global_crops * backbone(global_px, 0.0),
        teacher_heads=global_crops * cls + patches,
    )
