"""The optimizer's memory: donated state is updated where it lies."""

import jax
import jax.numpy as jnp

from dinojax.optim.optimizer import AdamW, Rates
from dinojax.ssl.state import init_state
from dinojax.ssl.step import apply_gradients, update_ratios


def test_update_copies_nothing():
    """Nor does what is said about it."""
    optimizer = AdamW(layerwise_decay=0.9)
    student = {
        "backbone": {"blocks": {"mlp": {"kernel": jnp.ones((3, 64, 128))}}},
        "dino_head": {"last_layer": jnp.ones((64, 512))},
    }
    state = init_state(student, optimizer.init(student), None)
    rates = Rates(jnp.float32(1e-3), jnp.float32(1e-3), jnp.float32(0.04))

    def update(state, grads):
        found = apply_gradients(optimizer, state, grads, jnp.float32(1), rates, jnp.float32(0.9))
        return *found, update_ratios(optimizer, found[0], rates, found[2])

    memory = jax.jit(update, donate_argnums=0).lower(state, student).compile().memory_analysis()
    assert memory is not None
    smallest = 3 * 64 * 128 * 4
    assert memory.temp_size_in_bytes < smallest / 4
    # What is not aliased: norms, ratios, finite and their tuple.
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 1024
