"""One way to every backbone: a run, a released file, random weights, raw pixels.

==================================  ==========================================================
``runs/x``                          the newest checkpoint of a run's workdir
``runs/x/checkpoints/400``          one of its checkpoints; ``runs/x/snapshots/400`` alike
``runs/x#vits16``                   of a run with several students the one of this name
``weights.safetensors``             of any layout of `dinojax.export.weights`, the model sniffed
``folder``                          the same of a Hugging Face folder, also of several files
``weights.safetensors#NAME``        the same of a model named as in `dinojax.backbones.names`
``dinov3_vits16``                   a released model from the Hugging Face hub, or by its id there
``random:vits16``                   a preset with random weights; ``random:vits16@3`` with seed 3
``pixels``                          no backbone: raw pixels as features
==================================  ==========================================================
"""

import os

from dinojax.backbones.hub import HUB, fetch, is_hub_id, release_of
from dinojax.backbones.names import find_release, is_released_name, with_weights
from dinojax.backbones.opened import Opened
from dinojax.backbones.released import open_released
from dinojax.backbones.run import open_trained
from dinojax.backbones.untrained import PIXELS, RANDOM, open_pixels, open_untrained
from dinojax.export.weights import is_weights
from dinojax.models.presets import PRESETS
from dinojax.precision import Precision, get_precision
from dinojax.runtime.earlier import STUDENT


def open_backbone(given: str, weights: str | None = None, precision: str | None = None) -> Opened:
    """The backbone that `given` names (see the module's table); its parameters are read later.

    Args:
        given: or with `weights` the name of a preset or of a released model.
        weights: a ``.safetensors`` file, or a Hugging Face folder.
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
    if is_weights(path):
        return open_released(path, model or None, policy)
    if (is_released_name(given) or is_hub_id(given)) and not os.path.exists(path):
        return _from_hub(given, policy)
    if given in PRESETS and not os.path.exists(given):
        raise ValueError(with_weights(given))
    return open_trained(given, policy)


def _from_hub(given: str, precision: Precision | None) -> Opened:
    if is_hub_id(given):
        return open_released(fetch(given), release_of(given), precision)
    release = find_release(given).name
    return open_released(fetch(HUB[release]), release, precision)
