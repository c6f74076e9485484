"""AdamW with per-submodule clipping; rates are read from the step, not from optimizer state.

A refused (non-finite) step must leave every moment alone while schedules move on, so learning rate
and weight decay come in as arguments instead of living in the chain's own counters.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dinojax.optim.groups import is_decayed, is_last_layer, lr_multipliers
from dinojax.trees import global_norm
from dinojax.typing import Array, Float, Params, PyTree


class Rates(NamedTuple):
    """The optimizer's hyperparameters at one step."""

    lr: Float[Array, ""]
    last_layer_lr: Float[Array, ""]
    weight_decay: Float[Array, ""]


def clip_by_submodule(
    grads: Params, max_norm: float | None
) -> tuple[Params, dict[str, Float[Array, ""]]]:
    """Clip each top-level submodule by its own global norm; also return the norms before clipping.

    The factor is ``min(1, max_norm / (norm + 1e-6))`` as in the reference. None clips nothing.
    """
    norms = {name: global_norm(tree) for name, tree in grads.items()}
    if max_norm is None:
        return grads, norms
    factors = {name: jnp.minimum(1, max_norm / (norm + 1e-6)) for name, norm in norms.items()}
    clipped = {
        name: jax.tree.map(lambda g, f=factors[name]: g * f.astype(g.dtype), tree)
        for name, tree in grads.items()
    }
    return clipped, norms


class AdamW(NamedTuple):
    """Decoupled weight decay (arXiv:1711.05101) with multipliers per leaf (`optim.groups`)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_grad: float | None = 3.0
    layerwise_decay: float = 1.0
    patch_embed_lr_mult: float = 1.0

    def init(self, params: Params) -> optax.ScaleByAdamState:
        """Zero moments in the dtype of the parameters."""
        return optax.scale_by_adam().init(params)  # type: ignore[return-value]

    def update_moments(
        self, grads: Params, state: optax.ScaleByAdamState
    ) -> optax.ScaleByAdamState:
        """Moments with the (clipped) gradients of one more step in them, frozen leaves or not."""
        return optax.ScaleByAdamState(
            count=optax.safe_increment(state.count),
            mu=optax.tree.update_moment(grads, state.mu, self.beta1, 1),
            nu=optax.tree.update_moment_per_elem_norm(grads, state.nu, self.beta2, 2),
        )

    def update_params(self, params: Params, state: optax.ScaleByAdamState, rates: Rates) -> Params:
        """``theta - lr * m * (adam + wd * d * theta)`` from the moments of this step.

        m is the leaf's rate multiplier, d its decay switch, adam the ratio of the bias-corrected
        moments.
        """
        means = optax.tree.bias_correction(state.mu, self.beta1, state.count)
        squares = optax.tree.bias_correction(state.nu, self.beta2, state.count)
        multipliers = lr_multipliers(
            params,
            layerwise_decay=self.layerwise_decay,
            patch_embed_lr_mult=self.patch_embed_lr_mult,
        )

        def step(theta, mean, square, multiplier, decayed: bool, last_layer: bool):
            direction = mean / (jnp.sqrt(square) + self.epsilon)
            lr = (rates.last_layer_lr if last_layer else rates.lr) * multiplier
            if decayed:
                direction = direction + rates.weight_decay.astype(theta.dtype) * theta
            return theta - lr.astype(theta.dtype) * direction

        return jax.tree.map(
            step, params, means, squares, multipliers, is_decayed(params), is_last_layer(params)
        )


def ema(average: PyTree, params: PyTree, momentum: Float[Array, ""]) -> PyTree:
    """``momentum * average + (1 - momentum) * params`` (the teacher, arXiv:2104.14294)."""
    return jax.tree.map(
        lambda a, p: momentum.astype(a.dtype) * a + (1 - momentum).astype(a.dtype) * p,
        average,
        params,
    )
