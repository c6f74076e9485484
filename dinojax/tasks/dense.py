"""What the tasks on maps share."""

from typing import Any

from dinojax.evaluation.dense_encoder import make_patch_encoder
from dinojax.evaluation.head_training import Encoder
from dinojax.tasks.task import Evaluation, check_batch


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
    check_batch(batch, key)
    changes = {"batch": batch} | ({} if canvas_px is None else {"canvas_px": canvas_px})
    return evaluation.reading | changes
