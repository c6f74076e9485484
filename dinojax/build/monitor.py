"""From a configuration to the monitor of a run."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import logging

from dinojax.build.loss import build_loss
from dinojax.build.model import build_frozen_model
from dinojax.config import Config
from dinojax.config.students import student_configs
from dinojax.data.source import Source
from dinojax.evaluation.head_measures import (
    HEAD_ROWS,
    Tokens,
    make_head_measures,
    relative_distance,
)
from dinojax.evaluation.monitor import PIXELS, FeatureMonitor, Network, evenly
from dinojax.evaluation.watched import make_watching_encoder
from dinojax.mesh import current_batch_shards
from dinojax.models.presets import Backbone
from dinojax.ssl.loss import Loss
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.typing import Params

RIDGE = 1e-3
"""Of the linear probe."""
ONCE = {"knn": "knn_pixels", "chance": "knn_chance", "repeated": "repeated_images"}
"""Scores of the raw pixels, which the first call gives."""

Monitor = Callable[[Any], Mapping[str, float]]
"""Scores of a state by name."""


def make_monitor(config: Config, bank: Source, held_out: Source) -> Monitor | None:
    """None where the configuration wants none.

    Of several students there is one each, whose scores are ``NAME/knn`` and so on.
    """
    if not config.knn.every_steps:
        return None
    if bank.class_names is None:
        logging.warning("the data have no labels: the monitor gives neither knn nor linear")
    monitors = {
        name: StateMonitor(one, bank, held_out) for name, one in student_configs(config).items()
    }
    if not monitors:
        return StateMonitor(config, bank, held_out)

    def evaluate(state: Students) -> dict[str, float]:
        return {
            f"{name}/{score}": value
            for name, monitor in monitors.items()
            for score, value in monitor(state.one(name)).items()
        }

    return evaluate


class StateMonitor:
    """Scores of one student's states: of the EMA teacher by name, of the student ``student_NAME``.

    Args:
        bank: training records; read only if they have labels.
        held_out: records kept out of training.
    """

    def __init__(self, config: Config, bank: Source, held_out: Source):
        loss, knn = build_loss(config), config.knn
        self._loss, self._pixels_scored = loss, False
        self._encode = self._encoder(config, loss.model.backbone, knn.image_px)
        self._frozen: Callable[..., Any] | None = None
        if isinstance(loss, Loss):
            self._measure_heads = make_head_measures(loss)
            frozen = build_frozen_model(config)
            if frozen is not None:
                scale = config.crops.teacher_to_student_resolution_scale
                self._frozen = self._encoder(config, frozen.backbone, round(knn.image_px / scale))
        self._features = FeatureMonitor(
            None if bank.class_names is None else evenly(bank, knn.max_bank),
            evenly(held_out, knn.max_queries),
            k=knn.k,
            temperature=knn.temperature,
            ridge=RIDGE,
            reading={
                "batch": knn.batch_size,
                "canvas_px": config.data.canvas_px,
                "read_timeout_s": config.data.read_timeout_s,
                "channels": config.student.in_chans,
            },
        )

    @staticmethod
    def _encoder(config: Config, backbone: Backbone, image_px: int) -> Callable[..., Any]:
        mean, std = config.crops.rgb_mean, config.crops.rgb_std
        return make_watching_encoder(backbone, image_px=image_px, mean=mean, std=std)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """All scores; the first call also gives those of `ONCE`."""
        networks = {
            "teacher": Network(self._encode, state.teacher["backbone"]),
            "student": Network(self._encode, state.student["backbone"]),
        }
        targets = "teacher"
        if self._frozen is not None:
            targets, params = "frozen", state.target_teacher["backbone"]
            networks[targets] = Network(self._frozen, params, most=HEAD_ROWS)
        pixels = not self._pixels_scored
        found, tokens = self._features(networks, pixels=pixels, rows=HEAD_ROWS)
        self._pixels_scored = True
        scores = {
            **found["teacher"],
            **{f"student_{name}": value for name, value in found["student"].items()},
            **{ONCE[name]: value for name, value in found.get(PIXELS, {}).items()},
            "teacher_student_distance": float(relative_distance(state.teacher, state.student)),
        }
        rows = _whole_rows(len(tokens["student"].cls))
        if isinstance(self._loss, Loss) and rows:
            theirs, ours = (
                Tokens(*(part[:rows] for part in tokens[name])) for name in (targets, "student")
            )
            measured = jax.device_get(self._measure_heads(state, theirs, ours))
            scores |= {name: float(value) for name, value in measured.items()}
        return scores

    def score(self, params: Params) -> dict[str, float]:
        """Of one backbone by its features; with those of `ONCE`."""
        found, _ = self._features({"one": Network(self._encode, params)}, pixels=True)
        pixels = {ONCE[name]: value for name, value in found[PIXELS].items()}
        return {**found["one"], **pixels}


def _whole_rows(count: int) -> int:
    """As many as the devices can share evenly, or all of them if they are fewer."""
    shards = current_batch_shards()
    return count if count < shards else count // shards * shards
