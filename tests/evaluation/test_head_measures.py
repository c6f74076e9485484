"""What the monitor says about heads, against NumPy in float64 on what the heads give."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import mesh as meshes
from dinojax.evaluation.head_measures import Tokens, make_head_measures, relative_distance
from dinojax.models.head import DinoHead
from dinojax.models.vit import VisionTransformer
from dinojax.precision import get_precision
from dinojax.ssl.forward import SslModel
from dinojax.ssl.loss import Loss
from dinojax.ssl.objective import Objective, sinkhorn_centering, softmax_centering
from dinojax.ssl.state import Centers, TrainState

PRECISION = get_precision("float32")
ROWS, WIDTH, TEMPERATURE = 16, 8, 0.07


def head(prototypes: int) -> DinoHead:
    return DinoHead(prototypes, PRECISION, hidden_dim=8, bottleneck_dim=6, layers=2)


def loss(centering, frozen=None) -> Loss:
    backbone = VisionTransformer(WIDTH, 1, 2, PRECISION, patch_size=4)
    schedules = SimpleNamespace(teacher_temp=lambda step: jnp.asarray(TEMPERATURE))
    model = SslModel(backbone, head(12), head(9))
    return Loss(model, Objective(), centering, schedules, frozen=frozen)


def params(model: SslModel, seed: int):
    keys = jax.random.split(jax.random.key(seed), 2)
    parts = {"dino_head": model.dino_head, "ibot_head": model.ibot_head}
    return {
        name: part.init(key, jnp.zeros((1, WIDTH)))["params"]
        for key, (name, part) in zip(keys, parts.items(), strict=True)
    }


def tokens(rng: np.random.Generator) -> Tokens:
    return Tokens(*(jnp.asarray(rng.normal(size=(ROWS, WIDTH)), jnp.float32) for _ in range(2)))


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(0)
    model = loss(None).model
    zero = jnp.int32(0)
    centers = Centers(*(jnp.asarray(rng.normal(size=k) / 5, jnp.float32) for k in (12, 9)))
    student, teacher = params(model, 0), params(model, 1)
    state = TrainState(zero, student, teacher, None, centers, zero, zero)  # type: ignore[arg-type]
    return state, tokens(rng), tokens(rng)


def logits(given, name: str, network: str) -> np.ndarray:
    state, theirs, ours = given
    head_params = getattr(state, network)[f"{name}_head"]
    token = (theirs if network == "teacher" else ours)[0 if name == "dino" else 1]
    part = head(12 if name == "dino" else 9)
    return np.asarray(part.apply({"params": head_params}, token), np.float64)


def entropy_share(probs: np.ndarray) -> float:
    return float(-(probs * np.log(probs)).sum(axis=1).mean() / np.log(probs.shape[1]))


@pytest.mark.parametrize("centering", ["softmax", "sinkhorn"])
def test_numpy_oracle(given, centering):
    run_centering = {"softmax": softmax_centering, "sinkhorn": sinkhorn_centering}[centering]
    state = given[0] if centering == "softmax" else given[0]._replace(centers=None)
    found = make_head_measures(loss(run_centering))(state, *given[1:])
    assert len(found) == 6
    for name, token, index in (("dino", "cls", 0), ("ibot", "patch", 1)):
        theirs, ours = (logits(given, name, network) for network in ("teacher", "student"))
        winners = theirs.argmax(axis=1)
        count = min(ROWS, theirs.shape[1])
        assert found[f"{token}_occupancy"] == pytest.approx(len(set(winners)) / count)
        assert found[f"{token}_agreement"] == pytest.approx((winners == ours.argmax(axis=1)).mean())
        if centering == "softmax":
            shifted = (theirs - np.asarray(given[0].centers[index], np.float64)) / TEMPERATURE
            probs = np.exp(shifted - shifted.max(axis=1, keepdims=True))
            probs /= probs.sum(axis=1, keepdims=True)
        else:
            probs = np.exp(theirs / TEMPERATURE)
            for _ in range(3):
                probs /= probs.sum(axis=0) * theirs.shape[1]
                probs /= probs.sum(axis=1, keepdims=True) * ROWS
            probs *= ROWS
        assert found[f"{token}_target_entropy"] == pytest.approx(entropy_share(probs), rel=1e-4)


def test_one_network_agrees_with_itself(given):
    state, theirs, _ = given
    measure = make_head_measures(loss(softmax_centering))
    found = measure(state._replace(student=state.teacher), theirs, theirs)
    assert found["cls_agreement"] == found["patch_agreement"] == 1


def test_a_frozen_teacher_gives_the_targets(given):
    """With its own heads, not those of the EMA."""
    state, theirs, ours = given
    plain = make_head_measures(loss(softmax_centering))(state, theirs, ours)
    frozen_model = loss(None).model
    distilled = state._replace(frozen_teacher=state.teacher, teacher=state.student)
    found = make_head_measures(loss(softmax_centering, frozen_model))(distilled, theirs, ours)
    assert {k: float(v) for k, v in found.items()} == {k: float(v) for k, v in plain.items()}


def test_several_devices_say_the_same(given):
    expected = make_head_measures(loss(softmax_centering))(*given)
    with jax.set_mesh(meshes.make_mesh()):
        found = jax.device_get(make_head_measures(loss(softmax_centering))(*given))
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-5), name


def test_relative_distance():
    one = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([4.0])}
    other = {"a": jnp.asarray([0.0, 0.0]), "b": jnp.asarray([5.0])}
    assert relative_distance(one, one) == 0
    assert relative_distance(one, other) == pytest.approx(np.sqrt(9 + 1) / 5)
    scaled = jax.tree.map(lambda x: 7 * x, (one, other))
    assert relative_distance(*scaled) == pytest.approx(np.sqrt(10) / 5)
