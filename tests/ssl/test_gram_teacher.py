"""The Gram teacher's way through training steps, and its patches on grids that are not square."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.build.loss import build_loss
from dinojax.build.step import build_init, build_optimizer
from dinojax.config import default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.kernels.resize import resize_weights
from dinojax.models.vit import VisionTransformer
from dinojax.precision import POLICIES
from dinojax.ssl.gram import GramAnchor
from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.step import make_train_step

LOAD_STEP = 2


@pytest.mark.slow
def test_the_ema_of_a_step_becomes_the_teacher_without_any_checkpoint():
    """From scratch, with neither gram.teacher nor init.from: what the reference refuses to start,
    because it wants a checkpoint for its Gram backbone (its ``it_load_ema_teacher`` is dead)."""
    given = shrink(default_config())
    given.student.depth = 1
    given.crops.global_crops_size, given.crops.local_crops_size = 32, 16
    given.train.batch_size = given.train.draw_group_size = 2
    given.train.steps, given.optim.lr.warmup_steps = 8, 0
    given.optim.momentum.peak = 0.5
    given.gram.use_loss, given.gram.load_ema_step = True, LOAD_STEP
    for end in ("start", "peak", "end"):
        given.gram.loss_weight[end] = 2.0
    config = parse_config(given)
    rng = np.random.default_rng(0)
    inputs = StepInputs(
        *(jnp.asarray(rng.normal(size=(2, 2, px, px, 3)), jnp.float32) for px in (32, 16)),
        masks=jnp.zeros((1, 4, 4), bool).at[0, :, 1].set(True),
        mask_indices=jnp.arange(1, 16, 4)[None],
        mask_weights=jnp.ones((1, 4)),
        draws=(None, None),
    )
    step = make_train_step(
        loss=build_loss(config),
        optimizer=build_optimizer(config),
        make_inputs=lambda inputs, step: inputs,
    )
    step, state = jax.jit(step), jax.jit(build_init(config))()

    def same(a: Any, b: Any) -> bool:
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return all(np.array_equal(x, y) for x, y in pairs)

    anchored_to = None
    for number in range(LOAD_STEP + 2):
        state, metrics = step(state, inputs)
        weight = float(metrics["gram_loss_weight"])
        if number < LOAD_STEP:
            assert weight == 0  # there is nothing yet to be anchored to
        else:
            assert weight == 2 and float(metrics["gram_loss"]) > 0
        if number + 1 == LOAD_STEP:
            anchored_to = jax.device_get(state.teacher["backbone"])
        assert same(state.gram_teacher, state.teacher["backbone"]) == (number + 1 == LOAD_STEP)
    assert same(state.gram_teacher, anchored_to)  # and stays it


@pytest.mark.parametrize(("gram_hw", "grid"), [((48, 128), (3, 8))])
def test_targets_on_grids_that_are_not_square(gram_hw, grid):
    """Rows stay rows: every token is the bicubic average of its own surroundings."""
    backbone = VisionTransformer(embed_dim=8, depth=1, num_heads=1, precision=POLICIES["float32"])
    rng = np.random.default_rng(0)
    crops = jnp.asarray(rng.normal(size=(2, 1, 32, 80, 3)), jnp.float32)  # 2 x 5 patches
    gram_crops = jnp.asarray(rng.normal(size=(2, 1, *gram_hw, 3)), jnp.float32)
    params = jax.jit(backbone.init)(jax.random.key(0), gram_crops[None, 0])["params"]
    inputs: Any = StepInputs(
        crops, None, None, jnp.zeros((1, 1), int), None, (None, None), gram_crops=gram_crops
    )
    anchor = GramAnchor(backbone, lambda step: 1.0)
    found = jax.jit(anchor.targets)(params, None, inputs)
    (features,) = jax.jit(backbone.apply)({"params": params}, gram_crops[None, :, 0])
    patches = np.asarray(features.patches).reshape(2, *grid, 8)
    rows, columns = (
        resize_weights(size, out, "bicubic", antialias=False)
        for size, out in zip(grid, (2, 5), strict=True)
    )
    expected = np.einsum("bhwd,yh,xw->byxd", patches, rows, columns).reshape(1, 2, 10, 8)
    np.testing.assert_allclose(found, expected, atol=1e-5)
