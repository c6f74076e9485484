"""Stored global features of labelled records, as tasks take them."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from dinojax.data.pipeline import EvalBatch, sequential_batches
from dinojax.data.source import Source
from dinojax.evaluation.feature_store import Rows, stored_rows
from dinojax.evaluation.global_features import make_global_encoder, usable_layers
from dinojax.mesh import gather
from dinojax.tasks.task import Evaluation

LAYERS = 4
"""Last layers whose CLS is stored: as many as any published probe reads."""

Part = Literal["train", "test"]


class Labelled(NamedTuple):
    """Rows of a part that can be scored."""

    rows: Rows
    keep: Int[np.ndarray, " n"]
    """Which of them."""
    labels: Int[np.ndarray, " n"]
    accepted: list[tuple[int, ...]] | None
    """Classes that are right, instead of the label alone."""

    @property
    def cls(self) -> np.ndarray:
        """CLS of the last layer, float32 [n, D]."""
        return self.rows.column("cls", -1)[self.keep]


def global_rows(evaluation: Evaluation, part: Part, view: int | None = None) -> Rows:
    """Features of all readable records: ``cls`` [L, D] and ``mean`` [d] per row.

    Args:
        view: as for `make_global_encoder`.
    """
    encoder, preparation = evaluation.encoder, evaluation.preparation
    source: Source = getattr(evaluation.records, part)
    layers = usable_layers(encoder.backbone, LAYERS)
    encode = make_global_encoder(
        encoder.backbone,
        layers=layers,
        image_px=preparation.image_px,
        resize_px=preparation.resize_px,
        fit=preparation.fit,
        mean=encoder.mean,
        std=encoder.std,
        view=view,
    )
    whole = jax.jit(gather)

    def run(batch: EvalBatch, places: Int[np.ndarray, " b"]) -> dict[str, np.ndarray]:
        found = encode(encoder.params, batch["canvas"], batch["size"], jnp.asarray(places))
        return {name: np.asarray(whole(value)) for name, value in found._asdict().items()}

    about = {
        **evaluation.protocol,
        "checkpoint": encoder.fingerprint,
        "records": evaluation.fingerprints[part],
        "layers": layers,
        "view": view,
    }
    return stored_rows(
        preparation.folder,
        about,
        source,
        lambda source: sequential_batches(source, **evaluation.reading),
        run,
    )


def labelled_rows(evaluation: Evaluation, part: Part) -> Labelled:
    """Without records that have no class.

    Raises:
        ValueError: none has one.
    """
    rows = global_rows(evaluation, part)
    accepted = evaluation.records.accepted if part == "test" else None
    labels = rows.labels
    keep = np.flatnonzero(labels >= 0)
    if not len(keep):
        raise ValueError(
            f"none of the {len(labels)} {part} records has a class; give others with --data"
        )
    if accepted is not None:
        return Labelled(rows, keep, labels[keep], [accepted[i] for i in rows.places[keep]])
    return Labelled(rows, keep, labels[keep], None)


def num_classes(evaluation: Evaluation) -> int:
    assert evaluation.records.train.class_names is not None  # the tasks' `needs`
    return len(evaluation.records.train.class_names)
