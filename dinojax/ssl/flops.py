"""Model FLOPs of one training step, for the share of the devices' peak that a run reaches."""

from dinojax.models.flops import backbone_flops, head_flops
from dinojax.ssl.forward import SslModel


def train_step_flops(
    model: SslModel,
    *,
    batch: int,
    global_px: int,
    local_px: int,
    local_crops: int,
    masked_patches: float,
    global_crops: int = 2,
    channels: int = 3,
    drop_path_rate: float = 0.0,
    gram_px: int = 0,
    frozen: SslModel | None = None,
    teacher_px: int | None = None,
) -> float:
    """Matmul FLOPs of student and teachers over a global batch of `batch` images.

    The student costs three forward passes (a backward pass is two), the teacher one, on whole
    global crops. Recomputation under `remat` is not counted: model FLOPs are what the method needs.
    Losses, Sinkhorn-Knopp, views and the optimizer are left out.

    Args:
        masked_patches: per image, over all its global crops; the average of the batch.
        local_crops: per image; `local_px` is not read if 0.
        gram_px: side of the crops of a Gram teacher; 0 if there is none but the EMA teacher.
        frozen: the model that gives the targets, if it is not the student's own.
        teacher_px: side of the crops that give the targets; None: `global_px`.
    """

    def forward(model: SslModel, image_px: int, rate: float = 0.0) -> float:
        """Of one crop and its CLS token."""
        flops = backbone_flops(model.backbone, image_px, channels=channels, drop_path_rate=rate)
        return flops + head_flops(model.dino_head, model.backbone.embed_dim)

    def patches(model: SslModel) -> float:
        return masked_patches * head_flops(model.patch_head, model.backbone.embed_dim)

    seen = frozen or model
    teacher = global_crops * forward(seen, teacher_px or global_px) + patches(seen)
    student = global_crops * forward(model, global_px, drop_path_rate) + patches(model)
    if local_crops:
        student += local_crops * forward(model, local_px, drop_path_rate)
    if gram_px:
        teacher += global_crops * backbone_flops(model.backbone, gram_px, channels=channels)
    return batch * (3 * student + teacher)
