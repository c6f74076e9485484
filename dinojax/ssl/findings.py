"""Where a step's first non-finite number comes from: all its tensors, in the order of the step.

Not a second implementation: these are the stages of `dinojax.ssl.loss`, with a look at what passes
between them. What each module returns is counted where it is made, and only the counts are kept.
The networks see the whole batch at once, forward only: a layer's activations, and all logits. Where
training has them in parts (micro-batches, chunks or tiles of logits), this needs more memory.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinojax import trees
from dinojax.mesh import STACKED, gather
from dinojax.models.watched import apply_watched
from dinojax.ssl.forward import SslModel
from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.loss import Loss, LossGradients
from dinojax.ssl.matching import FeatureLoss, MatchingModel
from dinojax.ssl.state import TrainState
from dinojax.typing import Array, Int, Params, PyTree

STAGES = (
    *("state", "inputs", "teacher modules", "targets", "student modules", "Gram teacher modules"),
    *("loss terms", "student gradients"),
)
FORWARD = (
    *("embed", "downsample_0", "stage_0", "downsample_1", "stage_1"),
    *("downsample_2", "stage_2", "downsample_3", "stage_3", "dwconv"),
    *("blocks", "norm1", "qkv", "proj", "attn", "ls1", "norm2"),
    *("fc1", "w1", "w2", "fc2", "w3", "mlp", "ls2", "cls_norm", "local_cls_norm", "norm"),
    *("pwconv1", "pwconv2", "ls", "backbone", "dino_head", "ibot_head"),
    *("cls_projection", "patch_projection"),
)
"""Modules in the order in which they are done."""
METHODS = ("__call__", "to_bottleneck", "to_logits")
"""Whose results are looked at."""
Counts = Int[Array, "*L 3 n"]
"""See `counts_of`."""


class Finding(NamedTuple):
    """A tensor with numbers that are not finite."""

    stage: str
    name: str
    """Path of a parameter, an input or a module; of one layer among stacked ones with ``[layer]``.
    """
    nan: int
    inf: int
    size: int


def make_findings(
    loss: Loss | FeatureLoss, step_loss: LossGradients, make_inputs: Callable[..., StepInputs]
) -> Callable[[TrainState, Any], list[Finding]]:
    """``(state, batch) -> findings``: all, the one that was computed first at the front.

    None for a good step.

    Args:
        loss: of the whole batch; its networks and terms are looked at.
        step_loss: the gradients are those of the train step, which may go by micro-batches.
    """

    counts = jax.jit(partial(count_stages, loss, step_loss, make_inputs))

    def findings(state: TrainState, batch: Any) -> list[Finding]:
        found = []
        for stage, counted in zip(STAGES, jax.device_get(counts(state, batch)), strict=True):
            entries = [entry for name, rows in counted.items() for entry in _entries(name, rows)]
            if stage.endswith("modules"):
                entries.sort(key=_place)
            elif stage.endswith("gradients"):
                entries.sort(key=_place, reverse=True)
            found += [Finding(stage, _shown(name, layer), *n) for name, layer, n in entries]
        return found

    return findings


def count_stages(
    loss: Loss | FeatureLoss,
    step_loss: LossGradients,
    make_inputs: Callable[..., StepInputs],
    state: TrainState,
    batch: Any,
) -> list[dict[str, Counts]]:
    """Of each of `STAGES` the `counts_of` of its tensors, by name."""
    seen: dict[str, PyTree] = {"teacher": {}, "student": {}, "Gram teacher": {}}
    watched = loss._replace(
        model=_watched(loss.model, seen["student"]),
        frozen=_watched(loss.frozen or loss.model, seen["teacher"]),
    )
    if isinstance(watched, Loss) and watched.gram is not None:
        backbone = _watched_network("backbone", watched.gram.backbone, seen["Gram teacher"])
        watched = watched._replace(gram=watched.gram._replace(backbone=backbone))
    with loss.model.backbone.precision.exact_products():
        inputs = make_inputs(batch, state.step)
        targets, terms = watched.examine(state, inputs)
        grads, _, _ = step_loss.gradients(state, batch, make_inputs)
    counted = [
        _count_tree(state._asdict()),
        _count_tree(inputs),
        trees.flatten(seen["teacher"]),
        _count_tree(targets),
        trees.flatten(seen["student"]),
        trees.flatten(seen["Gram teacher"]),
        _count_tree(terms),
        _count_tree(grads),
    ]
    return jax.tree.map(gather, counted)


def _watched(model: SslModel | MatchingModel, seen: dict[str, PyTree]) -> Any:
    """The same networks, which note in `seen` what their modules return."""
    networks = {name: one for name, one in model._asdict().items() if one is not None}
    return model._replace(
        **{name: _watched_network(name, network, seen) for name, network in networks.items()}
    )


def _watched_network(name: str, network: Any, seen: dict[str, PyTree]) -> Any:
    def apply(variables: dict[str, Params], *args: Any, **options: Any) -> Any:
        note = partial(jax.tree.map, counts_of)
        output, found = apply_watched(
            network, variables, *args, note=note, methods=METHODS, **options
        )
        # A backbone is applied once, a head once by each of its methods; one for both tasks twice,
        # the second time to patches.
        again = seen.get(name, {}).keys() & found.keys()
        place = f"{name} of patches" if again else name
        seen[place] = {**seen.get(place, {}), **found}
        return output

    copy = network.clone()
    object.__setattr__(copy, "apply", apply)  # modules are frozen
    return copy


def _count_tree(tree: PyTree) -> dict[str, Counts]:
    """`counts_of` of each leaf by its path; of stacked layers ``[L, 3, n]``."""
    return {
        name: jax.vmap(counts_of)(leaf) if STACKED.search(name) else counts_of(leaf)
        for name, leaf in trees.flatten(tree).items()
    }


def counts_of(leaf: Array) -> Counts:
    """How many numbers are NaN, infinite, and there at all, for each place on the longest axis.

    The host adds them up: a tensor may have more numbers than an int32 can count.
    """
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros((3, 0), jnp.int32)
    leaf = jnp.atleast_1d(leaf)
    longest = max(range(leaf.ndim), key=lambda axis: leaf.shape[axis])
    others = tuple(axis for axis in range(leaf.ndim) if axis != longest)
    each = jnp.full(leaf.shape[longest], math.prod(leaf.shape[axis] for axis in others))
    return jnp.stack([jnp.isnan(leaf).sum(others), jnp.isinf(leaf).sum(others), each])


Entry = tuple[str, int | None, tuple[int, int, int]]


def _entries(name: str, counts: np.ndarray) -> list[Entry]:
    stacked = STACKED.search(name) is not None
    layers = counts.sum(-1, dtype=np.int64).reshape(-1, 3).tolist()
    return [
        (name, layer if stacked else None, (nan, inf, size))
        for layer, (nan, inf, size) in enumerate(layers)
        if nan or inf
    ]


def _place(entry: Entry) -> tuple[Any, ...]:
    """For sorting: in forward order, a module after those inside it, layer by layer."""
    name, layer, _ = entry
    place: list[Any] = []
    for part in _shown(name, None).split("/"):
        place.append((FORWARD.index(part) if part in FORWARD else len(FORWARD), part))
        if STACKED.match(f"{part}/") and layer is not None:
            place.append((layer, ""))
    return (*place, (len(FORWARD) + 1, ""))


def _shown(name: str, layer: int | None) -> str:
    """Without Flax's ``/__call__/0`` and the like."""
    name = re.sub(r"(/to_\w+)/0$", r"\1", name.split("/__call__")[0])
    return name if layer is None else f"{name}[{layer}]"
