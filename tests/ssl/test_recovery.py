"""The gate opens when both heads are ready for long enough, or at last; and never closes."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.recovery import SHARES, Gate, TargetWatch, closed

GATE = Gate(open_below=0.7, patience_steps=3, max_steps=10, warmup_steps=4)


def run(shares: list[tuple[float, float]], gate: Gate = GATE) -> list[tuple[int, int]]:
    """(ready in a row, opened at) after each step."""
    recovery, seen = closed(), []
    for step, (dino, ibot) in enumerate(shares):
        terms = {"dino_cross_entropy": jnp.float32(dino), "ibot_cross_entropy": jnp.float32(ibot)}
        recovery = gate.after(recovery, jnp.int32(step), terms)
        seen.append((int(recovery.ready_in_a_row), int(recovery.opened_at)))
    return seen


def test_it_opens_after_so_many_ready_steps_in_a_row():
    good, bad = (0.6, 0.6), (0.6, 0.8)
    seen = run([bad, good, good, bad, good, good, good, bad, bad, bad, bad])
    assert seen[:6] == [(0, -1), (1, -1), (2, -1), (0, -1), (1, -1), (2, -1)]
    assert set(seen[6:]) == {(3, 7)}


def test_both_heads_have_to_be_ready():
    for shares in ((0.6, 0.8), (0.8, 0.6), (0.7, 0.6), (math.nan, 0.6)):
        assert run([shares] * 9)[-1] == (0, -1)


def test_at_last_it_opens_anyway():
    """Also when the steps at which it should have were no-ops, as after a rollback."""
    assert run([(1.0, 1.0)] * 12)[8:] == [(0, -1), (0, 10), (0, 10), (0, 10)]
    terms = {"dino_cross_entropy": jnp.float32(1), "ibot_cross_entropy": jnp.float32(1)}
    assert int(GATE.after(closed(), jnp.int32(20), terms).opened_at) == 21


def test_the_backbone_is_slow_at_first():
    opened = closed()._replace(opened_at=jnp.int32(7))
    rates = [float(GATE.backbone_rate(opened, jnp.int32(step))) for step in range(7, 13)]
    assert rates == [0.25, 0.5, 0.75, 1, 1, 1]
    assert float(GATE.backbone_rate(closed(), jnp.int32(7))) == 0
    at_once = GATE._replace(warmup_steps=0)
    assert float(at_once.backbone_rate(opened, jnp.int32(7))) == 1


@pytest.mark.parametrize("masked", [2, 4])
def test_what_it_sees_are_shares_of_log_k(masked):
    """A student that knows nothing has 1, whatever the share of crops that are masked."""
    views, images, patches, k, j = 2, 2, 3, 8, 16
    weights = np.zeros((1, views * images, patches), np.float32)
    weights[:, :masked] = 1 / patches
    inputs = StepInputs(
        global_crops=jnp.zeros((views, images, 1, 1, 3)),
        local_crops=jnp.zeros((0, images, 1, 1, 3)),
        masks=None,
        mask_indices=jnp.zeros((1, views * images * patches), jnp.int32),
        mask_weights=jnp.asarray(weights.reshape(1, -1)),
        draws=(None, None),
    )
    # As `ibot_loss`: the sum of the weights times log J, over all crops.
    terms = {
        "dino_global_crops_loss": jnp.float32(math.log(k)),
        "ibot_loss": jnp.float32(masked / (views * images) * math.log(j)),
    }
    found = TargetWatch((math.log(k), math.log(j)))(terms, inputs)
    assert set(found) == set(SHARES)
    for name, value in found.items():
        np.testing.assert_allclose(value, 1, atol=1e-6, err_msg=name)
