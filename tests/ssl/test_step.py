"""Whole train steps with softmax centering, against the method written out in NumPy.

The golden steps run Sinkhorn-Knopp only. Here the logits are the model's, and everything after them
is computed a second time in float64 and from the definitions.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.build.inputs import build_inputs
from dinojax.build.loss import build_loss
from dinojax.build.step import build_init, build_optimizer
from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.config.validation import validate
from dinojax.ssl.forward import student_forward, teacher_forward
from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.state import TrainState
from dinojax.ssl.step import make_train_step

MOMENTUM, STUDENT_TEMP, TEACHER_TEMPS = 0.9, 0.1, (0.04, 0.05, 0.06)
Logits = dict[str, np.ndarray]


def softmax_config(centering: str = "softmax") -> Config:
    config = shrink(default_config())
    config.train.centering = centering
    config.student.layerscale = 1.0
    config.optim.lr.warmup_steps = 0  # the first step must move the teacher
    config.optim.momentum.peak = 0.5
    temperature = config.optim.teacher_temp
    temperature.family, temperature.warmup_steps = "dinov3", 2
    temperature.start, temperature.peak, temperature.end = 0.04, 0.06, 0.06
    config.dino.koleo_loss_weight = 0.0  # has an oracle of its own in tests/losses
    config.dino.local_loss_weight.start = config.dino.local_loss_weight.peak = 0.5
    config.dino.local_loss_weight.end = 0.5
    config.dino.loss_weight, config.ibot.loss_weight = 1.5, 0.75
    return parse_config(config)


class Run:
    """Three steps on the same crops: states before each of them, and metrics."""

    def __init__(self):
        config = softmax_config()
        count, side = config.train.batch_size, config.data.canvas_px
        batch = {
            "canvas": np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8),
            "size": np.full((count, 2), side, np.int32),
        }
        loss, make_inputs, init = build_loss(config), build_inputs(config), build_init(config)
        state, self.inputs = jax.jit(lambda batch: (init(), make_inputs(batch, 0)))(batch)
        self.step = jax.jit(
            make_train_step(
                loss=loss,
                optimizer=build_optimizer(config),
                make_inputs=lambda inputs, step: inputs,
            )
        )
        forward = jax.jit(
            lambda state, inputs: (
                teacher_forward(loss.model, state.teacher, inputs),
                student_forward(loss.model, state.student, inputs),
            )
        )
        self.states: list[TrainState] = [state]
        self.metrics, self.logits = [], []
        for _ in TEACHER_TEMPS:
            teacher, student = forward(state, self.inputs)
            names = ("cls_logits", "patch_logits")
            outputs = {name: getattr(teacher, name) for name in names}
            outputs |= {f"student_{name}": getattr(student, name) for name in names}
            self.logits.append({name: np.asarray(x, np.float64) for name, x in outputs.items()})
            state, metrics = self.step(state, self.inputs)
            self.states.append(state)
            self.metrics.append({name: float(value) for name, value in metrics.items()})


@pytest.fixture(scope="module")
def run() -> Run:
    return Run()


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def moved(center: np.ndarray, logits: np.ndarray) -> np.ndarray:
    mean = logits.reshape(-1, logits.shape[-1]).mean(axis=0)
    return MOMENTUM * center + (1 - MOMENTUM) * mean


def centers_before(logits: list[Logits]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(dino, ibot) before the first step, the second, ... and after the last."""
    names = ("cls_logits", "patch_logits")
    centers = [tuple(np.zeros(logits[0][name].shape[-1]) for name in names)]
    for given in logits:
        pairs = zip(centers[-1], names, strict=True)
        centers.append(tuple(moved(center, given[name]) for center, name in pairs))
    return centers


def losses(
    logits: Logits, centers: tuple[np.ndarray, np.ndarray], temperature: float, inputs: StepInputs
) -> dict[str, float]:
    """Of one step: a loop over pairs of crops and over masked tokens."""
    targets = np.exp(log_softmax((logits["cls_logits"] - centers[0]) / temperature))
    patch_targets = np.exp(log_softmax((logits["patch_logits"] - centers[1]) / temperature))

    def entropy(student: np.ndarray, teacher: np.ndarray) -> float:
        return float(-(teacher * log_softmax(student / STUDENT_TEMP)).sum(axis=-1).mean())

    views, student = len(targets), logits["student_cls_logits"]
    local = [
        entropy(student[s], targets[t])
        for s, t in itertools.product(range(views, len(student)), range(views))
    ]
    whole = [
        entropy(student[s], targets[t])
        for s, t in itertools.product(range(views), repeat=2)
        if s != t
    ]
    masks = np.asarray(inputs.masks)
    masked_of = masks.sum(axis=-1)
    assert masks.any() and not masked_of.all()
    ibot = 0.0
    for group, row, patch, slot in each_masked(masks):
        weight = 1 / masked_of[group, row]
        at = group, slot
        ibot += weight * entropy(logits["student_patch_logits"][at], patch_targets[at])
        assert masks[group, row, patch]
    ibot /= masked_of.size
    dino = (0.5 * sum(local) + sum(whole)) / (len(local) + len(whole))
    return {
        "dino_local_crops_loss": float(np.mean(local)),
        "dino_global_crops_loss": float(np.mean(whole)),
        "ibot_loss": ibot,
        "total_loss": 1.5 * dino + 0.75 * ibot,
    }


def each_masked(masks: np.ndarray):
    """(group, crop, patch, position among the group's masked tokens)."""
    for group in range(len(masks)):
        for slot, (row, patch) in enumerate(np.argwhere(masks[group])):
            yield group, row, patch, slot


def test_centers_follow_the_moving_average(run):
    for state, expected in zip(run.states, centers_before(run.logits), strict=True):
        for center, value in zip(state.centers, expected, strict=True):
            np.testing.assert_allclose(center, value, rtol=1e-5, atol=1e-6)
    assert all(np.abs(center).max() > 1e-3 for center in run.states[-1].centers)


@pytest.mark.parametrize("step", range(len(TEACHER_TEMPS)))
def test_losses_of_every_step(run, step):
    """Targets use the centre of earlier steps, not the one that the step's own logits move."""
    assert run.metrics[step]["teacher_temp"] == pytest.approx(TEACHER_TEMPS[step])
    centers = centers_before(run.logits)[step]
    expected = losses(run.logits[step], centers, TEACHER_TEMPS[step], run.inputs)
    found = {name: run.metrics[step][name] for name in expected}
    assert found == pytest.approx(expected, rel=2e-5)


def test_the_steps_would_differ_without_centers(run):
    """Else the test above could not tell a centre from none."""
    last = len(TEACHER_TEMPS) - 1
    none = tuple(np.zeros_like(center) for center in centers_before(run.logits)[last])
    without = losses(run.logits[last], none, TEACHER_TEMPS[last], run.inputs)
    for name, value in without.items():
        assert abs(value / run.metrics[last][name] - 1) > 1e-4, name


def test_a_refused_step_moves_no_center(run):
    bad = run.inputs._replace(local_crops=run.inputs.local_crops.at[0, 0, 0, 0, 0].set(jnp.nan))
    before = run.states[-1]
    after, metrics = run.step(before, bad)
    assert not metrics["finite"] and int(after.refused_steps) == 1
    jax.tree.map(np.testing.assert_array_equal, after.centers, before.centers)


def test_sinkhorn_has_no_centers():
    state = jax.eval_shape(build_init(softmax_config("sinkhorn_knopp")))
    assert state.centers is None


def test_other_centerings_are_refused():
    words = r"train\.centering='centering'.*'sinkhorn_knopp', 'softmax'"
    with pytest.raises(ValueError, match=words):
        validate(softmax_config("centering"), batch_shards=1)
