"""The monitor of a run: how good its networks are on images not trained on, by frozen features.

Every image is decoded once and goes once through each network; all measures are of these features.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from dinojax.data.pipeline import sequential_batches
from dinojax.data.source import Source
from dinojax.data.subset import Subset
from dinojax.evaluation.features import pixel_features
from dinojax.evaluation.head_measures import Tokens
from dinojax.evaluation.knn import knn_accuracy
from dinojax.evaluation.neighbours import nearest_distances
from dinojax.evaluation.ridge_probe import ridge_accuracy
from dinojax.evaluation.spectrum import alpha_req, rankme
from dinojax.evaluation.watched import Watched
from dinojax.mesh import gather
from dinojax.typing import Params

QUANTILES = {"nn_distance_q10": 0.1, "nn_distance_q50": 0.5}
OF_IMAGES = ("locality", "drift", "patch_norm_outliers")
"""Numbers of each image, whose mean is the score."""
PIXELS = "pixels"


def evenly(source: Source, limit: int) -> Source:
    """At most `limit` records, spread evenly over the source."""
    if len(source) <= limit:
        return source
    return Subset(source, np.arange(limit) * len(source) // limit)


class Network(NamedTuple):
    """What images go through."""

    encode: Callable[..., Watched]
    """``(parameters, canvas, size)``, jitted."""
    params: Params
    most: int | None = None
    """Images that it is to see at least; None: all."""


class Seen(NamedTuple):
    """What networks made of a source; of unreadable records nothing."""

    features: dict[str, dict[str, np.ndarray]]
    """By network: fields of `Watched`, ``[n, ..]``; of ``PIXELS``: ``cls``."""
    labels: np.ndarray


class FeatureMonitor:
    """Scores networks on held-out records, and on a labelled bank where there is one.

    Args:
        bank: labelled training records; None: there are no labels, and neither kNN nor linear.
        held_out: records kept out of training; labelled if the bank is.
        ridge: of the linear probe (`dinojax.evaluation.ridge_probe`).
        reading: ``batch``, ``canvas_px`` and what else `sequential_batches` takes.
    """

    def __init__(
        self,
        bank: Source | None,
        held_out: Source,
        *,
        k: int,
        temperature: float,
        ridge: float,
        reading: dict[str, Any],
    ):
        self._bank, self._held_out = bank, held_out
        self._k, self._temperature, self._ridge = k, temperature, ridge
        self._reading = reading

    def __call__(
        self, networks: Mapping[str, Network], *, pixels: bool, rows: int = 0
    ) -> tuple[dict[str, dict[str, float]], dict[str, Tokens]]:
        """Scores by network, and tokens of the first `rows` held-out images for the heads.

        With `pixels` also scores of the raw pixels, under `PIXELS`. Networks that do not see all
        images have no scores. NaN where no held-out record can be read.
        """
        everything = {name: one for name, one in networks.items() if one.most is None}
        held_out = _see(self._held_out, networks, OF_IMAGES, pixels, self._reading)
        bank = None
        if self._bank is not None:
            bank = _see(self._bank, everything, (), pixels, self._reading)
        names = [*everything, *([PIXELS] if pixels else [])]
        scores = {
            name: self._scores(
                held_out.features[name],
                held_out.labels,
                None if bank is None else bank.features[name]["cls"],
                None if bank is None else bank.labels,
                pixels=name == PIXELS,
            )
            for name in names
        }
        tokens = {
            name: Tokens(*(held_out.features[name][part][:rows] for part in ("cls", "patch")))
            for name in networks
        }
        return scores, tokens

    def _scores(
        self,
        found: Mapping[str, np.ndarray],
        labels: np.ndarray,
        bank: np.ndarray | None,
        bank_labels: np.ndarray | None,
        *,
        pixels: bool,
    ) -> dict[str, float]:
        cls, scores = found["cls"], {}
        if bank is not None and bank_labels is not None:
            scores |= self._labelled(bank, bank_labels, cls, labels, pixels=pixels)
        if pixels:
            return {**scores, "repeated": repeated(cls)}
        distances = np.asarray(nearest_distances(cls)) if len(cls) > 1 else np.array([math.nan])
        scores |= {name: float(np.quantile(distances, q)) for name, q in QUANTILES.items()}
        scores |= {name: float(found[name].mean()) if len(cls) else math.nan for name in OF_IMAGES}
        spectrum = {"rankme": rankme, "alpha_req": alpha_req}
        scores |= {name: of(cls) if len(cls) > 1 else math.nan for name, of in spectrum.items()}
        return scores

    def _labelled(
        self,
        bank: np.ndarray,
        bank_labels: np.ndarray,
        cls: np.ndarray,
        labels: np.ndarray,
        *,
        pixels: bool,
    ) -> dict[str, float]:
        assert self._bank is not None and self._bank.class_names is not None
        classes = len(self._bank.class_names)
        known, known_bank = labels >= 0, bank_labels >= 0
        cls, labels, bank, bank_labels = (
            cls[known],
            labels[known],
            bank[known_bank],
            bank_labels[known_bank],
        )
        if not len(cls) or not len(bank):
            return dict.fromkeys(("knn", "chance") if pixels else ("knn", "linear"), math.nan)
        both = bank, bank_labels, cls, labels
        scores = {
            "knn": knn_accuracy(
                *both, k=min(self._k, len(bank)), temperature=self._temperature, num_classes=classes
            )
        }
        if pixels:
            return {**scores, "chance": chance(labels)}
        return {**scores, "linear": ridge_accuracy(*both, num_classes=classes, ridge=self._ridge)}


def chance(labels: np.ndarray) -> float:
    """Top-1 that guesses stay below: the most frequent class always, and two standard errors."""
    share = np.bincount(labels).max() / len(labels)
    return float(share + 2 * math.sqrt(share * (1 - share) / len(labels)))


def repeated(pixels: np.ndarray) -> float:
    """Share of the images, 0..1, that look like another one, as all of a single colour do.

    Args:
        pixels: `pixel_features`, small and without their mean; compared to a grey level.
    """
    if not len(pixels):
        return math.nan
    return 1 - len(np.unique(np.round(255 * pixels), axis=0)) / len(pixels)


def _see(
    source: Source,
    networks: Mapping[str, Network],
    more: Sequence[str],
    pixels: bool,
    reading: dict[str, Any],
) -> Seen:
    """``cls`` and the parts `more` of each network, with ``patch`` if there are any."""
    parts = ("cls", "patch", *more) if more else ("cls",)
    whole = jax.jit(gather)  # a process cannot read what lies on another's devices
    found: dict[str, dict[str, list[np.ndarray]]] = {
        name: {part: [] for part in parts} for name in networks
    }
    if pixels:
        found[PIXELS] = {"cls": []}
    labels: list[np.ndarray] = []
    count = 0
    with contextlib.closing(sequential_batches(source, **reading)) as batches:
        for batch in batches:
            valid, given = batch["valid"], (batch["canvas"], batch["size"])
            for name, (encode, params, most) in networks.items():
                if most is None or count < most:
                    out = encode(params, *given)
                    for part in parts:
                        found[name][part].append(np.asarray(whole(getattr(out, part)))[valid])
            if pixels:
                found[PIXELS]["cls"].append(np.asarray(whole(pixel_features(*given)))[valid])
            labels.append(batch["label"][valid])
            count += int(valid.sum())
    if count < len(source):
        text = "monitor: %d of %d records are unreadable and left out"
        logging.warning(text, len(source) - count, len(source))
    return Seen(
        {
            name: {part: np.concatenate(values) for part, values in of.items()}
            for name, of in found.items()
        },
        np.concatenate(labels),
    )
