"""Patches that find their place in a warped copy of the image: PCK."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.data.pipeline import sequential_batches
from dinojax.evaluation.correspondence import count_correct, draw_warp, pck, see_warped
from dinojax.evaluation.features import centre_crops
from dinojax.mesh import gather, split_batch
from dinojax.tasks.dense import patch_encoder
from dinojax.tasks.task import SEEDS, Evaluation, Score, Task, over_seeds
from dinojax.typing import Array, Float, Params


@dataclass(frozen=True)
class CorrespondenceProtocol:
    """Held-out images at images.image_px; the warps are ours, not those of a benchmark."""

    alphas: tuple[float, ...] = (0.05, 0.1, 0.2)
    """How far a match may be off, in sides of the image."""
    angle_deg: float = 30.0
    scale: float = 1.25
    jitter: float = 0.1
    """Of the warps: see `dinojax.evaluation.correspondence.draw_warp`."""
    seeds: tuple[int, ...] = SEEDS
    """Of the warps."""


def _run(protocol: CorrespondenceProtocol, evaluation: Evaluation) -> Iterator[Score]:
    encode, side_px = patch_encoder(evaluation), evaluation.preparation.image_px
    alphas = tuple(sorted(protocol.alphas))
    if not alphas:
        raise ValueError("correspondence.alphas is empty; use 0.05,0.1,0.2")

    @jax.jit
    def count(
        params: Params,
        canvas: Array | np.ndarray,
        size: Array | np.ndarray,
        warps: Float[Array | np.ndarray, "b 3 3"],
    ) -> tuple[Array, Array]:
        images = centre_crops(split_batch(jnp.asarray(canvas)), size, side_px)
        copies, content = see_warped(images, jnp.asarray(warps))
        features = encode(params, images, jnp.ones_like(content))
        others = encode(params, copies, content)
        found = count_correct(features, others, jnp.asarray(warps), side_px=side_px, alphas=alphas)
        return jax.tree.map(gather, found)

    def run(seed: int) -> dict[str, float]:
        counted, first = [], 0
        with contextlib.closing(
            sequential_batches(evaluation.records.test, **evaluation.reading)
        ) as batches:
            for batch in batches:
                places = range(first, first + len(batch["canvas"]))
                warps = [
                    draw_warp(
                        seed,
                        place,
                        side_px,
                        angle_deg=protocol.angle_deg,
                        scale=protocol.scale,
                        jitter=protocol.jitter,
                    )
                    for place in places
                ]
                found = count(
                    evaluation.encoder.params,
                    batch["canvas"],
                    batch["size"],
                    np.array(warps, np.float32),
                )
                counted.append(tuple(np.asarray(part)[batch["valid"]] for part in found))
                first = places.stop
        values = pck(counted).tolist()
        return {f"pck{alpha:g}": value for alpha, value in zip(alphas, values, strict=True)}

    yield from over_seeds(run, protocol.seeds, evaluation.keep)


CORRESPONDENCE = Task(CorrespondenceProtocol, frozenset(), _run, cuts=False)
