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
) -> float:
    """Matmul FLOPs of student and teachers over a global batch of `batch` images.

    The student costs three forward passes (a backward pass is two), the teacher one, on whole
    global crops. Recomputation under `remat` is not counted: model FLOPs are what the method needs.
    Losses, Sinkhorn-Knopp, views and the optimizer are left out.

    Args:
        masked_patches: per image, over all its global crops; the average of the batch.
        local_crops: per image; `local_px` is not read if 0.
        gram_px: side of the crops of a Gram teacher; 0 if there is none but the EMA teacher.
    """
    width = model.backbone.embed_dim

    def backbone(image_px: int, rate: float) -> float:
        return backbone_flops(model.backbone, image_px, channels=channels, drop_path_rate=rate)

    cls = head_flops(model.dino_head, width)
    patches = masked_patches * head_flops(model.ibot_head, width)
    teacher = global_crops * (backbone(global_px, 0.0) + cls) + patches
    student = global_crops * (backbone(global_px, drop_path_rate) + cls) + patches
    if local_crops:
        student += local_crops * (backbone(local_px, drop_path_rate) + cls)
    if gram_px:
        teacher += global_crops * backbone(gram_px, 0.0)
    return batch * (3 * student + teacher)
