"""The order of the passes of a step."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp

from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.loss import anchored
from dinojax.ssl.state import TrainState


def test_the_student_waits_for_the_gram_targets():
    """Its crops and the targets leave one barrier: no compiler can begin with the student."""
    gram = SimpleNamespace(targets=lambda params, ema_patches, inputs: 2 * ema_patches)
    loss = SimpleNamespace(objective=None, schedules=None, gram=gram)
    zero = jnp.int32(0)
    state = TrainState(zero, {}, {}, None, None, zero, zero)  # type: ignore[arg-type]
    inputs = StepInputs(
        *(jnp.ones((2, 2, px, px, 3)) for px in (8, 4)),
        masks=jnp.zeros((1, 4, 4), bool),
        mask_indices=jnp.zeros((1, 4), int),
        mask_weights=jnp.ones((1, 4)),
        draws=(None, None),
    )

    def passes(patches, inputs):
        targets, inputs = anchored(loss, patches, state, inputs)  # type: ignore[arg-type]
        return targets, inputs.global_crops, inputs.local_crops

    traced = jax.make_jaxpr(passes)(jnp.ones((1, 4, 4, 2)), inputs).jaxpr
    (barrier,) = (one for one in traced.eqns if one.primitive.name == "optimization_barrier")
    assert set(traced.outvars) <= set(barrier.outvars)
