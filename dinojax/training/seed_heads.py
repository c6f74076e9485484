"""New heads for a backbone without: prototypes from what they make of the run's first images."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging

from dinojax.build.inputs import build_inputs
from dinojax.build.model import build_model
from dinojax.config import Config
from dinojax.config.resolutions import resolution_at
from dinojax.prng import key_for
from dinojax.ssl.forward import Bottlenecks, SslModel, teacher_bottlenecks
from dinojax.ssl.prototypes import seed_prototypes, with_prototypes
from dinojax.ssl.state import TrainState
from dinojax.typing import Float, Params

FirstBatches = Callable[[int], Iterator[dict[str, jax.Array]]]
"""The first so many batches of the run, on its mesh."""
ROWS_PER_PROTOTYPE = 4
"""So many bottleneck features at most are clustered, taken evenly from all batches."""


def seed_heads(config: Config, state: TrainState, first_batches: FirstBatches) -> TrainState:
    """Student and teacher with prototypes from k-means, a function of (config, data, seed).

    What is clustered are the vectors that the teacher's prototypes meet in the first
    ``recovery.seed_batches`` steps: bottleneck features of CLS tokens and of masked patches.
    """
    where = state.step.sharding  # on every device
    rows = _bottlenecks(config, state, first_batches, where)
    heads = {}
    for name, found in rows.items():
        head = state.teacher[name]
        count = head["last_layer"].shape[1]
        key = key_for(config.train.seed, 0, "prototypes", name)
        # All of it on every device, and only the result split: the same on every mesh.
        columns = jax.jit(seed_prototypes, static_argnums=1, out_shardings=where)(found, count, key)
        logging.info("%s: %d prototypes from %d bottleneck features", name, count, len(found))
        layout = jax.tree.map(lambda leaf: leaf.sharding, head)
        heads[name] = jax.jit(with_prototypes, out_shardings=layout)(head, columns)
    copies = jax.tree.map(lambda leaf: leaf.copy(), heads)
    return state._replace(student={**state.student, **copies}, teacher={**state.teacher, **heads})


def _bottlenecks(
    config: Config, state: TrainState, first_batches: FirstBatches, where: Any
) -> dict[str, Float[np.ndarray, "N F"]]:
    """By the head that made them; tied heads have those of CLS tokens and patches."""
    model, batches = build_model(config), config.recovery.seed_batches
    assert isinstance(model, SslModel)

    @functools.cache
    def look(resolution: Config) -> Callable[..., Bottlenecks]:
        make_inputs = build_inputs(resolution)

        def see(teacher: Params, batch: dict[str, jax.Array], step: jax.Array) -> Bottlenecks:
            # Not in micro-batches: which images make one up depends on the mesh.
            with model.backbone.precision.exact_products():
                return teacher_bottlenecks(model, teacher, make_inputs(batch, step))[0]

        return jax.jit(see, out_shardings=where)

    found: dict[str, list[np.ndarray]] = {"dino_head": [], model.patch_head_name: []}
    share = {name: ROWS_PER_PROTOTYPE * getattr(model, name).prototypes for name in found}
    if model.ibot_head is None:
        share["dino_head"] //= 2  # of CLS tokens, and as many of patches
    for step, batch in enumerate(first_batches(batches)):
        at = jax.device_put(np.int32(step), where)
        seen = look(resolution_at(config, step))(state.teacher, batch, at)
        real = ... if seen.real is None else np.asarray(seen.real)
        for name, features in (
            ("dino_head", _rows(np.asarray(seen.cls))),
            (model.patch_head_name, _rows(np.asarray(seen.patches)[real])),
        ):
            found[name].append(_evenly(features, -(-share[name] // batches)))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _rows(x: Float[np.ndarray, "*R F"]) -> Float[np.ndarray, "N F"]:
    return x.reshape(-1, x.shape[-1])


def _evenly(rows: Float[np.ndarray, "N F"], limit: int) -> Float[np.ndarray, "n F"]:
    """At most `limit` of them."""
    if len(rows) <= limit:
        return rows
    return rows[np.arange(limit) * len(rows) // limit]
