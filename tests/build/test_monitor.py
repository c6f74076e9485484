"""The monitor of a configuration: what it says about states of tiny runs."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from images import encode, smooth, write_folder
from trained_runs import small_config

from dinojax import mesh as meshes
from dinojax.build.monitor import make_monitor
from dinojax.build.step import build_init
from dinojax.config import Config, from_dict, to_dict
from dinojax.training.data import open_data

OF_FEATURES = {"rankme", "alpha_req", "nn_distance_q10", "nn_distance_q50"}
OF_FEATURES |= {"locality", "drift", "patch_norm_outliers"}
WITH_LABELS = {"knn", "linear"}
OF_HEADS = {
    f"{token}_{name}"
    for token in ("cls", "patch")
    for name in ("occupancy", "target_entropy", "agreement")
}
ONCE = {"knn_pixels", "knn_chance", "repeated_images"}


def config(**keys) -> Config:
    values = json.loads(json.dumps(to_dict(small_config())))
    for name, value in keys.items():
        section, key = name.split("__")
        values[section][key] = value
    return from_dict(values)


def random_state(given: Config):
    rng = np.random.default_rng(0)

    def noisy(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf + 0.2 * jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)

    state = jax.jit(build_init(given))()
    return state._replace(teacher=jax.tree.map(noisy, state.teacher))


def monitored(given: Config, state, calls: int = 1) -> list[dict[str, float]]:
    data = open_data(given)
    with jax.set_mesh(meshes.make_mesh(1, 1, devices=jax.devices()[:1])):
        monitor = make_monitor(given, data.bank, data.queries)
        assert monitor is not None
        return [dict(monitor(state)) for _ in range(calls)]


def both(names: set[str]) -> set[str]:
    return names | {f"student_{name}" for name in names}


@pytest.fixture(scope="module")
def state():
    return random_state(config())


@pytest.fixture(scope="module")
def scores(state):
    return monitored(config(), state, calls=2)


def test_names(scores):
    expected = both(OF_FEATURES | WITH_LABELS) | OF_HEADS | {"teacher_student_distance"}
    assert set(scores[0]) == expected | ONCE
    assert set(scores[1]) == expected  # pixels do not change
    assert all(scores[0][name] == pytest.approx(scores[1][name], nan_ok=True) for name in expected)
    assert all(math.isfinite(value) for name, value in scores[0].items() if "alpha" not in name)


def test_teacher_and_student_have_their_own(scores, state):
    """In each other's place they have each other's scores."""
    (swapped,) = monitored(config(), state._replace(student=state.teacher, teacher=state.student))
    for name in OF_FEATURES | WITH_LABELS:
        assert swapped[name] == pytest.approx(scores[0][f"student_{name}"], nan_ok=True), name
        assert swapped[f"student_{name}"] == pytest.approx(scores[0][name], nan_ok=True), name
    assert scores[0]["rankme"] != pytest.approx(scores[0]["student_rankme"], rel=1e-3)
    for token in ("cls", "patch"):
        assert swapped[f"{token}_agreement"] == scores[0][f"{token}_agreement"]


def test_without_labels(state, tmp_path):
    files = {f"{i}.jpg": encode(np.roll(smooth(40, 40), 3 * i, 1)) for i in range(40)}
    folder = str(write_folder(tmp_path / "bare", files))
    (found,) = monitored(config(data__source=folder, data__holdout=0.5), state)
    expected = both(OF_FEATURES) | OF_HEADS | {"teacher_student_distance", "repeated_images"}
    assert set(found) == expected and found["repeated_images"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["prototypes", "features"])
def test_distillation(objective):
    values = json.loads(json.dumps(to_dict(config())))
    student, distillation = values["student"], values["distillation"]
    distillation |= {"teacher": "random", "objective": objective}
    for key in distillation["backbone"]:
        if key in student:
            distillation["backbone"][key] = student[key]
    distillation["backbone"]["embed_dim"] = 2 * student["embed_dim"]
    distillation["dino_head"], distillation["ibot_head"] = (
        values[name]["head"] for name in ("dino", "ibot")
    )
    if objective == "features":
        values["crops"]["local_crops_number"] = 0
    given = from_dict(values)
    state = random_state(given)
    (found,) = monitored(given, state)
    assert OF_HEADS & set(found) == (OF_HEADS if objective == "prototypes" else set())
    if objective == "prototypes":
        # Targets are those of the frozen teacher: another EMA changes nothing about them.
        (other,) = monitored(given, state._replace(teacher=state.student))
        assert all(other[name] == pytest.approx(found[name]) for name in OF_HEADS)


def test_no_monitor_if_none_is_wanted():
    given = config(knn__every_steps=0)
    data = open_data(given)
    assert make_monitor(given, data.bank, data.queries) is None
