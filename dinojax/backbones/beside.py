"""What is said of a model and its images: in a file's header, or beside it in its folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinojax.backbones.opened import ImageFormat
from dinojax.export.hf_config import hf_config
from dinojax.export.weights import HF, Weights
from dinojax.models.presets import Backbone
from dinojax.models.vit import VisionTransformer

PREPROCESSOR, CONFIG = "preprocessor_config.json", "config.json"
NOT_IN_SHAPES = ("num_attention_heads", "patch_size", "rope_theta", "layer_norm_eps")
"""Settings of a model that no shape of its weights tells, but for the patches."""


def check_config(weights: Weights, backbone: Backbone) -> None:
    """Raises ValueError: a Hugging Face folder's ``config.json`` is of another model."""
    beside = Path(weights.where).parent / CONFIG
    if weights.layout != HF or not isinstance(backbone, VisionTransformer) or not beside.is_file():
        return
    try:
        said = dict(json.loads(beside.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{beside} is damaged ({error}); download it again") from error
    ours = hf_config(backbone, ImageFormat())
    for key in NOT_IN_SHAPES:
        if key in said and key in ours and said[key] != ours[key]:
            raise ValueError(f"{beside} says {key}={said[key]}, and the model has {ours[key]}")


def image_format_of(weights: Weights) -> ImageFormat | None:
    """How images are normalised, by the metadata of our files or beside a Hugging Face file."""
    said: Mapping[str, Any] = weights.file.metadata
    beside = Path(weights.where).parent / PREPROCESSOR
    try:
        if "rgb_mean" in said:
            mean, std = json.loads(said["rgb_mean"]), json.loads(said["rgb_std"])
            return image_format(mean, std, int(said.get("image_px", ImageFormat().image_px)))
        if weights.layout == HF and os.path.isfile(beside):
            found = json.loads(beside.read_text(encoding="utf-8"))
            if not found.get("do_normalize", True):
                channels = len(found.get("image_mean", ImageFormat().mean))
                return image_format((0,) * channels, (1,) * channels, ImageFormat().image_px)
            if "image_mean" in found:
                return image_format(found["image_mean"], found["image_std"], ImageFormat().image_px)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{weights.where}: what is said of its images is damaged ({type(error).__name__}: "
            f"{error}); download or export it again"
        ) from error
    return None


def image_format(mean: Any, std: Any, image_px: int) -> ImageFormat:
    means, stds = (tuple(float(value) for value in values) for values in (mean, std))
    if len(means) != len(stds) or not means or min(stds) <= 0 or image_px < 1:
        raise ValueError(f"images have means {means} and deviations {stds} at {image_px} px")
    return ImageFormat(means, stds, image_px)
