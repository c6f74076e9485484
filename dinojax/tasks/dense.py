"""What the tasks on maps share."""

from typing import Any

from dinojax.evaluation.dense_encoder import make_patch_encoder
from dinojax.evaluation.head_training import Encoder
from dinojax.mesh import current_batch_shards
from dinojax.tasks.task import Evaluation


def patch_encoder(evaluation: Evaluation, layers: int = 1) -> Encoder:
    """See `make_patch_encoder`."""
    encoder = evaluation.encoder
    return make_patch_encoder(encoder.backbone, mean=encoder.mean, std=encoder.std, layers=layers)


def reading(evaluation: Evaluation, batch: int, canvas_px: int | None, key: str) -> dict[str, Any]:
    """Keyword arguments of `map_batches` for batches of this size.

    Args:
        canvas_px: None: that of the evaluation.
        key: what sets `batch`, for the message.

    Raises:
        ValueError: the devices cannot share such a batch.
    """
    shards = current_batch_shards()
    if batch < 1 or batch % shards:
        raise ValueError(
            f"{key}={batch} must be a multiple of the {shards} devices that share a batch; use "
            f"{-(-max(batch, 1) // shards) * shards}"
        )
    changes = {"batch": batch} | ({} if canvas_px is None else {"canvas_px": canvas_px})
    return evaluation.reading | changes
