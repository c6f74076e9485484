"""AdamW with per-submodule clipping; rates are read from the step, not from optimizer state.

A refused (non-finite) step must leave every moment alone while schedules move on, so learning rate
and weight decay come in as arguments instead of living in the chain's own counters.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dinojax.optim.groups import is_decayed, is_last_layer, lr_multipliers
from dinojax.precision import round_randomly, widen
from dinojax.prng import key_for
from dinojax.trees import global_norm, map_named
from dinojax.typing import Array, Float, Params, PyTree


class Rates(NamedTuple):
    """The optimizer's hyperparameters at one step."""

    lr: Float[Array, ""]
    last_layer_lr: Float[Array, ""]
    weight_decay: Float[Array, ""]
    backbone: Float[Array, ""] | None = None
    """Factor on both rates for the submodule of this name, 0 if it is frozen; None: 1."""


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
    """Decoupled weight decay (arXiv:1711.05101) with multipliers per leaf (`optim.groups`).

    Moments may be kept in bfloat16 (`moments_dtype`), as in DeepSeek-V3 (arXiv:2412.19437, section
    3.3.3); arithmetic stays in the gradients' dtype. The first moment is rounded to nearest: with
    beta1 = 0.9 it moves by far more than a unit in the last place. The second moves by 1 - beta2 of
    the difference, 0.1 % at DINO's 0.999, and would stand still; it is rounded at random, by
    (`seed`, updates so far, leaf).
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_grad: float | None = 3.0
    layerwise_decay: float = 1.0
    patch_embed_lr_mult: float = 1.0
    moments_dtype: str | None = None
    """None: that of the parameters; or "bfloat16"."""
    seed: int = 0

    def init(self, params: Params) -> optax.ScaleByAdamState:
        """Zero moments."""
        zeros = optax.tree.zeros_like(params, dtype=self.moments_dtype)
        count = jnp.zeros((), jnp.int32)
        return optax.ScaleByAdamState(count, mu=zeros, nu=jax.tree.map(jnp.copy, zeros))

    def update_moments(
        self, grads: Params, state: optax.ScaleByAdamState
    ) -> optax.ScaleByAdamState:
        """Moments with the (clipped) gradients of one more step in them, frozen leaves or not.

        So they are those of the latest gradients when a leaf is frozen no longer.
        """
        mu = optax.tree.update_moment(grads, _widened(state.mu), self.beta1, 1)
        nu = optax.tree.update_moment_per_elem_norm(grads, _widened(state.nu), self.beta2, 2)
        if self.moments_dtype is not None:
            updates = jnp.asarray(state.count)

            def rounded(path: str, x: Array) -> Array:
                return round_randomly(x, key_for(self.seed, updates, "moments", path))

            mu, nu = optax.tree.cast(mu, self.moments_dtype), map_named(rounded, nu)
        return optax.ScaleByAdamState(optax.safe_increment(state.count), mu, nu)

    def update_params(self, params: Params, state: optax.ScaleByAdamState, rates: Rates) -> Params:
        """``theta - lr * m * (adam + wd * d * theta)`` from the moments of this step.

        m is the leaf's rate multiplier, d its decay switch, adam the ratio of the bias-corrected
        moments.
        """
        means = optax.tree.bias_correction(_widened(state.mu), self.beta1, state.count)
        squares = optax.tree.bias_correction(_widened(state.nu), self.beta2, state.count)

        def step(theta, mean, square, multiplier, decayed: bool, last_layer: bool):
            direction = mean / (jnp.sqrt(square) + self.epsilon)
            lr = (rates.last_layer_lr if last_layer else rates.lr) * multiplier
            if decayed:
                direction = direction + rates.weight_decay.astype(theta.dtype) * theta
            return theta - lr.astype(theta.dtype) * direction

        multipliers = self._multipliers(params, rates)
        return jax.tree.map(
            step, params, means, squares, multipliers, is_decayed(params), is_last_layer(params)
        )

    def update_norms(
        self, params: Params, state: optax.ScaleByAdamState, rates: Rates
    ) -> dict[str, Float[Array, ""]]:
        """Of each top-level submodule the norm of its last update, its weight decay left out.

        The moments are enough for that: old parameters would have to be kept for it. The square of
        an update is put together from squares, ``(lr m)^2 mean^2 / (square + epsilon^2)``, because
        compilers store what is squared afterwards, a tree as large as the parameters.
        """
        count = jnp.asarray(state.count)
        mean, square = 1 - self.beta1**count, 1 - self.beta2**count
        factor = jnp.sqrt(square) / mean  # bias corrections; the second one's epsilon is as small

        def leaf(mu, nu, multiplier, last_layer: bool) -> Float[Array, ""]:
            lr = (rates.last_layer_lr if last_layer else rates.lr) * multiplier
            squares = jnp.square(lr) * jnp.square(widen(mu)) / (widen(nu) + self.epsilon**2)
            return squares.sum()

        multipliers = self._multipliers(params, rates)
        sums = jax.tree.map(leaf, state.mu, state.nu, multipliers, is_last_layer(params))
        return {
            name: factor * jnp.sqrt(jnp.stack(jax.tree.leaves(tree)).sum())
            for name, tree in sums.items()
        }

    def _multipliers(self, params: Params, rates: Rates) -> PyTree:
        multipliers = lr_multipliers(
            params,
            layerwise_decay=self.layerwise_decay,
            patch_embed_lr_mult=self.patch_embed_lr_mult,
        )
        if rates.backbone is None:
            return multipliers
        factor = rates.backbone
        slowed = jax.tree.map(lambda multiplier: factor * multiplier, multipliers["backbone"])
        return {**multipliers, "backbone": slowed}


def _widened(tree: PyTree) -> PyTree:
    return jax.tree.map(widen, tree)


def ema(average: PyTree, params: PyTree, momentum: Float[Array, ""]) -> PyTree:
    """``momentum * average + (1 - momentum) * params`` (the teacher, arXiv:2104.14294)."""
    return jax.tree.map(
        lambda a, p: momentum.astype(a.dtype) * a + (1 - momentum).astype(a.dtype) * p,
        average,
        params,
    )
