"""One way to every backbone: a run, a released file, random weights, raw pixels.

==================================  ==========================================================
``runs/x``                          the newest checkpoint of a run's workdir
``runs/x/checkpoints/400``          one of its checkpoints; ``runs/x/snapshots/400`` alike
``runs/x#vits16``                   of a run with several students the one of this name
``weights.safetensors``             official names and layouts, the model sniffed from them
``weights.safetensors#NAME``        the same of a model named as in `dinojax.backbones.names`
``random:vits16``                   a preset with random weights; ``random:vits16@3`` with seed 3
``pixels``                          no backbone: raw pixels as features
==================================  ==========================================================
"""

from dinojax.backbones.opened import Opened
from dinojax.backbones.released import open_released
from dinojax.backbones.run import open_trained
from dinojax.backbones.untrained import PIXELS, RANDOM, open_pixels, open_untrained
from dinojax.export.tensor_file import SUFFIX
from dinojax.precision import get_precision
from dinojax.runtime.earlier import STUDENT


def open_backbone(given: str, weights: str | None = None, precision: str | None = None) -> Opened:
    """The backbone that `given` names (see the module's table); its parameters are read later.

    Args:
        given: or with `weights` the name of a preset or of a released model.
        weights: a ``.safetensors`` file.
        precision: of its computations, a key of `dinojax.precision.POLICIES`. None: that of the
            run, and float32 for all else.

    Raises:
        FileNotFoundError: there is no such checkpoint or file.
        ValueError: no such model, or a damaged file.
        dinojax.runtime.errors.CheckpointError: a damaged checkpoint.
    """
    policy = None if precision is None else get_precision(precision)
    exact = policy or get_precision("float32")
    if weights is not None:
        return open_released(weights, given, policy)
    if given == PIXELS:
        return open_pixels(exact)
    if given.startswith(RANDOM):
        return open_untrained(given, exact)
    path, _, model = given.partition(STUDENT)
    if path.endswith(SUFFIX):
        return open_released(path, model or None, policy)
    if path.endswith(".pth"):
        raise ValueError(
            f"{given!r}: files of PyTorch can hold code, so they are not read; convert it with "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW) to a file "
            f"that ends in {SUFFIX}"
        )
    return open_trained(given, policy)
