"""From a configuration to the pictures of its EMA teacher during training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from jax.sharding import Mesh

from dinojax.backbones.model import Model
from dinojax.backbones.opened import ImageFormat
from dinojax.build.model import build_backbone
from dinojax.config import Config
from dinojax.config.students import student_configs
from dinojax.data.source import Source
from dinojax.models.vit import VisionTransformer
from dinojax.pictures import panels
from dinojax.pictures.figure import Figure, draw
from dinojax.pictures.images import Named, from_source
from dinojax.precision import get_precision
from dinojax.ssl.students import Students

Draw = Callable[[Any], Mapping[str, np.ndarray]]
"""Of a state: pictures [H, W, 3] by name. All processes make the same call."""


def make_panels(config: Config, source: Source, mesh: Mesh) -> Draw | None:
    """Pictures of records of `source`; None where the config wants none, or none can be read.

    Of several students there is one set each, under ``NAME/``.
    """
    if not config.panels.every_steps:
        return None
    given = config.panels
    images = from_source(source, given.images, given.image_px, config.student.in_chans)
    if not images:
        logging.warning("none of %d records can be read: no pictures", config.panels.images)
        return None
    students = {name: _of_one(one, images, mesh) for name, one in student_configs(config).items()}
    if not students:
        return _of_one(config, images, mesh)

    def draw_all(state: Students) -> dict[str, np.ndarray]:
        return {
            f"{name}/{panel}": picture
            for name, one in students.items()
            for panel, picture in one(state.students[name]).items()
        }

    return draw_all


def _of_one(config: Config, images: Sequence[Named], mesh: Mesh) -> Draw:
    side, crops = images[0].pixels.shape[0], config.crops
    backbone = build_backbone(config, get_precision(config.train.precision))
    form = ImageFormat(crops.rgb_mean, crops.rgb_std, side)
    empty = Model("EMA teacher", backbone, form, {}, mesh)

    def draw_one(state: Any) -> dict[str, np.ndarray]:
        model = empty.with_params(state.teacher["backbone"], f"step {int(state.step)}")
        return {name: np.asarray(draw(one)) for name, one in figures(model, images).items()}

    return draw_one


def figures(model: Model, images: Sequence[Named], batch: int = 4) -> dict[str, Figure]:
    """All panels of one model."""
    seen, facts = panels.look(model, images, "PCA", batch), [model.name]
    rows, columns = seen.patches.shape[1:3]
    found = {
        "pca": panels.pca_figure("Patch features as colours", facts, images, [seen]),
        "similarity": panels.similarity_figure(
            "Similarity to one patch", facts, images, seen, (0, rows // 2, columns // 2)
        ),
        "norms": panels.norms_figure("Norms of patch tokens", facts, images, model, batch),
    }
    if isinstance(model.backbone, VisionTransformer):
        title = "What CLS attends to"
        found["attention"] = panels.attention_figure(title, facts, images, model, -1, batch)
    return found
