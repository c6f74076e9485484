"""What is built from a configuration: options that say how to compute do not change the result."""

from typing import Any

import jax
import numpy as np
import pytest

from dinojax import trees
from dinojax.build import loss as loss_building
from dinojax.build.inputs import build_inputs
from dinojax.build.loss import build_loss, build_step_loss
from dinojax.build.step import build_init, build_train_step
from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.config.validation import validate
from dinojax.losses.fused import fused_dino_loss, fused_ibot_loss
from dinojax.ssl.accumulation import AccumulatedLoss, fused_sinkhorn_centers
from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.loss import Loss
from dinojax.ssl.state import TrainState


def small(**overrides: Any) -> Config:
    config = shrink(default_config())
    config.student.layerscale = 1.0  # at 1e-5 a wrong layer would hardly show
    for name in ("jitter", "grey"):
        config.crops[f"{name}_probability"] = 0.0
    for name in ("blur", "solarize"):
        config.crops[f"{name}_probabilities"] = (0.0, 0.0, 0.0)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return parse_config(config)


Start = tuple[TrainState, StepInputs]


@pytest.fixture(scope="module")
def start() -> Start:
    config = small()
    count, side = config.train.batch_size, config.data.canvas_px
    batch = {
        "canvas": np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8),
        "size": np.full((count, 2), side, np.int32),
    }
    init, make_inputs = build_init(config), build_inputs(config)
    return jax.jit(lambda batch: (init(), make_inputs(batch, 0)))(batch)


def loss_and_gradients(config: Config, start: Start) -> dict[str, np.ndarray]:
    state, inputs = start
    compute = jax.jit(jax.value_and_grad(build_loss(config), has_aux=True))
    (total, _), grads = compute(state.student, state, inputs)
    return {name: np.asarray(x) for name, x in trees.flatten({"loss": total, **grads}).items()}


@pytest.fixture(scope="module")
def expected(start) -> dict[str, np.ndarray]:
    return loss_and_gradients(small(), start)


@pytest.mark.parametrize(
    "free",
    [
        {"student__remat": "dots"},
        {"student__attention_backend": "reference"},
        {"student__remat": "full", "student__scan_unroll": 2},
    ],
    ids=str,
)
def test_free_keys_do_not_change_the_step(free, start, expected):
    """Those of `runtime.contract.FREE_KEYS` that reach the step; the mesh has tests of its own."""
    found = loss_and_gradients(small(**free), start)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        assert scale > 0 or "mask" in name, name
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5 * scale, err_msg=name)


def test_on_tpus_kernels_make_the_logits(monkeypatch, start):
    given, (state, _) = small(), start
    assert isinstance(build_step_loss(given), Loss)
    monkeypatch.setattr(loss_building, "platform", lambda: "tpu")
    loss = build_step_loss(given)
    assert isinstance(loss, AccumulatedLoss)
    assert loss.centering is fused_sinkhorn_centers
    assert (loss.objective.dino, loss.objective.ibot) == (fused_dino_loss, fused_ibot_loss)
    count, side = given.train.batch_size, given.data.canvas_px
    batch = {
        "canvas": jax.ShapeDtypeStruct((count, side, side, 3), np.uint8),
        "size": jax.ShapeDtypeStruct((count, 2), np.int32),
    }
    make_inputs = build_inputs(given)
    grads, *_ = jax.eval_shape(lambda b: loss.gradients(state, b, make_inputs), batch)
    assert trees.flatten(grads).keys() == trees.flatten(state.student).keys()


@pytest.mark.parametrize("chunk", [None, 8])
@pytest.mark.parametrize("centering", ["softmax", "sinkhorn_knopp"])
def test_dinov2(centering, chunk):
    """Patch 14, positions by table, tied weight-normalised heads, its masks: the step traces."""
    config = default_config()
    config.student.arch = "vits14"
    config = shrink(config)
    assert config.crops.global_crops_size == 56
    config.student.pos_embed_grid = 4
    config.ibot.mask_rule, config.ibot.separate_head = "dinov2", False
    config.dino.head.weight_norm = config.ibot.head.weight_norm = True
    config.train.centering, config.train.prototype_chunk = centering, chunk
    given = parse_config(config)
    validate(given, batch_shards=1)
    state = jax.eval_shape(build_init(given))
    assert set(state.student) == {"backbone", "dino_head"}
    assert state.student["backbone"]["embed"]["pos_embed"].shape == (17, 64)
    count = given.train.batch_size
    batch = {
        "canvas": jax.ShapeDtypeStruct((count, 64, 64, 3), np.uint8),
        "size": jax.ShapeDtypeStruct((count, 2), np.int32),
    }
    after, metrics = jax.eval_shape(build_train_step(given), state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert {"ibot_loss", "dino_head_grad_norm"} <= metrics.keys()
    assert "ibot_head_grad_norm" not in metrics
