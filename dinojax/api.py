"""For notebooks: a model by its name, and the features of a whole source in files.

>>> import dinojax
>>> model = dinojax.load("runs/quickstart")
>>> model.features(images)["cls"].shape
(8, 128)
"""

from dinojax.backbones.model import Model
from dinojax.backbones.open import open_backbone
from dinojax.embedding.embed import embed

__all__ = ["Model", "embed", "load"]


def load(path_or_name: str, weights: str | None = None, *, precision: str | None = None) -> Model:
    """A frozen model, over all devices.

    Args:
        path_or_name: a run, a checkpoint or snapshot of it, a file of weights, a name of a
            released model such as ``dinov3_vits16`` or a hub id, or ``random:vits16``; the table of
            `dinojax.backbones.open`.
        weights: the file that holds what `path_or_name` names.
        precision: of its computations, as ``train.precision``. None: that of the run; float32 for
            all else.

    Raises:
        FileNotFoundError: there is no such run or file.
        ValueError: no such model, or weights that are damaged or of another model.
        dinojax.runtime.errors.CheckpointError: a damaged checkpoint.
    """
    return Model.read(open_backbone(path_or_name, weights, precision))
