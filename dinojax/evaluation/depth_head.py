"""Monocular depth as published: BatchNorm and a 1x1 convolution to bins on frozen patches."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dinojax.data.map_batches import DepthBatch
from dinojax.evaluation.dense_head import apply
from dinojax.evaluation.depth import DepthErrors, bin_depth, depth_errors, scale_invariant_loss
from dinojax.evaluation.depth_views import DepthViews
from dinojax.evaluation.frames import centred, cut, cut_map
from dinojax.evaluation.head_training import Encoder, Example, Trainer, make_trainer
from dinojax.evaluation.one_cycle import depth_beta1, depth_rate
from dinojax.evaluation.ridge import LinearHead
from dinojax.kernels.resize import resize_grid
from dinojax.mesh import gather, split_batch
from dinojax.typing import Array, Float, Int, Params, Step, UInt8

SCALE_STEPS = 100
"""First steps, in which the loss sees the scale alone."""


@dataclass(frozen=True)
class Bins:
    """Depths that can be predicted, in metres."""

    nearest: float = 0.001
    farthest: float = 10.0
    count: int = 256


def make_depth_trainer(
    encode: Encoder,
    views: DepthViews,
    bins: Bins,
    *,
    lr: float,
    weight_decay: float,
    warmup_steps: int,
    steps: int,
    clip_grad: float,
) -> Trainer:
    """See `make_trainer`."""

    def loss(outputs: Array, true: Array, valid: Array, step: Step) -> Array:
        predicted = _to_pixels(bin_depth(outputs, bins.nearest, bins.farthest), true.shape[1:])
        known = (true > bins.nearest) & (true <= bins.farthest) & valid[:, None, None]
        late = jnp.asarray(step) >= SCALE_STEPS
        return scale_invariant_loss(predicted, true, known, variance=late)

    adamw = optax.inject_hyperparams(optax.adamw)(
        learning_rate=depth_rate(lr, warmup_steps, steps),
        b1=depth_beta1(warmup_steps, steps),
        b2=0.99,
        weight_decay=weight_decay,
    )
    return make_trainer(
        encode,
        views,
        loss,
        optax.chain(optax.clip_by_global_norm(clip_grad), adamw),
        outputs=bins.count,
        dropout=0.0,
    )


def examples(batches: Iterable[DepthBatch]) -> Iterator[Example]:
    """Batches as the trainer takes them."""
    for batch in batches:
        yield Example(batch["canvas"], batch["size"], batch["depth"], batch["valid"])


Judge = Callable[[Params, LinearHead, Iterable[DepthBatch]], dict[str, float]]


def make_depth_judge(
    encode: Encoder,
    bins: Bins,
    *,
    frame_hw: tuple[int, int],
    box: tuple[int, int, int, int],
    flip: bool,
) -> Judge:
    """Means over images of their `DepthErrors`, for one head after the other.

    Args:
        frame_hw: as in `DepthViews`; whole frames are seen at once.
        box: top, left, bottom, right of the pixels in it that count.
        flip: average with the prediction for the mirror image.

    Raises:
        ValueError: no image has a pixel that counts, or predictions are not finite.
    """
    top, left, bottom, right = box

    @jax.jit
    def errors_of(
        params: Params,
        head: LinearHead,
        canvas: UInt8[Array | np.ndarray, "b H W C"],
        size: Int[Array | np.ndarray, "b 2"],
        depth: Float[Array | np.ndarray, "b H W"],
    ) -> tuple[DepthErrors, Array]:
        """Of each image, and whether it has a pixel that counts."""

        def one(canvas: Array, size: Array, depth: Array) -> tuple[Array, Array, Array]:
            frame = centred(size, frame_hw)
            image, content = cut(canvas, size, frame, frame_hw)
            return image, content, cut_map(depth, size, frame, frame_hw, empty=0)

        images, content, true = jax.vmap(one)(*split_batch((canvas, size, depth)))
        predicted = predict(params, head, images, content)
        if flip:
            mirrored = predict(params, head, images[:, :, ::-1], content[:, :, ::-1])
            predicted = (predicted + mirrored[:, :, ::-1]) / 2
        predicted = predicted.clip(bins.nearest, bins.farthest)
        known = (true > bins.nearest) & (true < bins.farthest)
        counted = (slice(None), slice(top, bottom), slice(left, right))
        predicted, true, known = predicted[counted], true[counted], known[counted]
        errors = depth_errors(predicted, true, known)
        return jax.tree.map(gather, (errors, known.any((-2, -1))))

    def predict(params: Params, head: LinearHead, images: Array, content: Array) -> Array:
        outputs = apply(head, encode(params, images, content))
        return _to_pixels(bin_depth(outputs, bins.nearest, bins.farthest), frame_hw)

    def judge(params: Params, head: LinearHead, batches: Iterable[DepthBatch]) -> dict[str, float]:
        found = [np.zeros((len(DepthErrors._fields), 0))]
        for batch in batches:
            images = batch["canvas"], batch["size"], batch["depth"]
            errors, seen = errors_of(params, head, *images)
            found.append(np.array(errors)[:, batch["valid"] & np.asarray(seen)])
        values = np.concatenate(found, axis=1)
        if not values.size:
            raise ValueError(
                f"no held-out image has a depth between {bins.nearest} and {bins.farthest} m; give "
                "other images or bins"
            )
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).any(0).sum())
            raise ValueError(
                f"depths of {bad} of {values.shape[1]} images are not finite; lower "
                "depth.learning_rate"
            )
        return dict(zip(DepthErrors._fields, values.mean(1).tolist(), strict=True))

    return judge


def _to_pixels(depth: Float[Array, "b r c"], hw: tuple[int, ...]) -> Float[Array, "b h w"]:
    return resize_grid(depth[..., None], (hw[0], hw[1]), method="bilinear")[..., 0]
