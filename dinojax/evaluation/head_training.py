"""Trains a `dense_head` on augmented crops of images, seen by a frozen encoder.

A run is a function of its seed: order of the images, crops, colours, first weights and dropout.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dinojax.data.order import record_indices
from dinojax.data.source import Source
from dinojax.data.subset import Subset
from dinojax.evaluation.dense_head import (
    HeadParams,
    Statistics,
    apply_training,
    fold,
    init_head,
)
from dinojax.evaluation.ridge import LinearHead
from dinojax.mesh import split_batch
from dinojax.prng import key_for, slot_keys
from dinojax.typing import Array, Bool, Float, Int, Key, Params, Shaped, Step, UInt8

Encoder = Callable[[Params, Float[Array, "b h w C"], Bool[Array, "b h w"]], Float[Array, "b r c D"]]
"""``(backbone parameters, images in grey levels, where there is image) -> patches``."""

Loss = Callable[[Float[Array, "b r c K"], Array, Bool[Array, " b"], Step], Float[Array, ""]]
"""``(outputs, targets per pixel, valid, step) -> loss``."""


View = Callable[
    [Key, UInt8[Array, "H W C"], Int[Array, "2"], Shaped[Array, "H W"]],
    tuple[Float[Array, "h w C"], Bool[Array, "h w"], Shaped[Array, "h w"]],
]
"""``(key, canvas, size, map) -> (image in grey levels, where there is image, target)``."""


class Example(NamedTuple):
    """A batch of images with their maps."""

    canvas: UInt8[np.ndarray, "b H W C"]
    size: Int[np.ndarray, "b 2"]
    map: Shaped[np.ndarray, "b H W"]
    valid: Bool[np.ndarray, " b"]


class HeadState(NamedTuple):
    """All that a training step changes."""

    params: HeadParams
    statistics: Statistics
    moments: Any
    step: Int[Array, ""]


Trainer = Callable[[Params, Iterable[Example], int], LinearHead]


def make_trainer(
    encode: Encoder,
    view: View,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    outputs: int,
    dropout: float,
) -> Trainer:
    """``(backbone parameters, batches, seed) -> trained head``, compiled once for all seeds.

    Raises:
        ValueError: there are no batches.
    """

    def look(step: Step, seed: Step, batch: Example) -> tuple[Array, Array, Array]:
        keys = slot_keys(key_for(seed, step, "views"), len(batch.canvas))
        return jax.vmap(view)(keys, *(jnp.asarray(part) for part in batch[:3]))

    @jax.jit
    def start(backbone: Params, batch: Example, seed: Step) -> HeadState:
        def patches() -> Array:
            images, content, _ = look(0, seed, batch)
            return encode(backbone, images, content)

        width = jax.eval_shape(patches).shape[-1]
        params, statistics = init_head(key_for(seed, 0, "head"), width, outputs)
        return HeadState(params, statistics, optimizer.init(params), jnp.zeros((), jnp.int32))

    @jax.jit(donate_argnums=1)
    def train(backbone: Params, state: HeadState, batch: Example, seed: Step) -> HeadState:
        batch = split_batch(batch)
        images, content, targets = look(state.step, seed, batch)
        patches = encode(backbone, images, content)
        key = key_for(seed, state.step, "dropout")
        valid = jnp.asarray(batch.valid)

        def objective(params: HeadParams) -> tuple[Array, Statistics]:
            made, statistics = apply_training(
                params, state.statistics, patches, valid=valid, key=key, dropout=dropout
            )
            return loss(made, targets, valid, state.step), statistics

        grads, statistics = jax.grad(objective, has_aux=True)(state.params)
        updates, moments = optimizer.update(grads, state.moments, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        return HeadState(params, statistics, moments, state.step + 1)

    def run(backbone: Params, batches: Iterable[Example], seed: int) -> LinearHead:
        state = None
        for batch in batches:
            if state is None:
                state = start(backbone, batch, seed)
            jax.block_until_ready(state)  # each step that waits would hold its batch
            state = train(backbone, state, batch, seed)
        if state is None:
            raise ValueError("there are no training batches; train for at least 1 step")
        return jax.jit(fold)(state.params, state.statistics)

    return run


def shuffled(source: Source, steps: int, batch: int, seed: int) -> Subset:
    """What `steps` batches see: epochs in orders of their own."""
    return Subset(source, record_indices(range(steps * batch), len(source), seed))
