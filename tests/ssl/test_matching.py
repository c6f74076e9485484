"""Distillation by features: the loss from its parts, and one update however it is computed."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from dinojax import mesh as meshes
from dinojax import trees
from dinojax.build import inputs as build_inputs
from dinojax.build import loss as build_loss
from dinojax.build import step as build
from dinojax.build.model import build_frozen_model, build_model
from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.kernels.resize import resize_grid
from dinojax.models.projection import Projection
from dinojax.planning.memory import high_points
from dinojax.planning.streams import MeshShape
from dinojax.precision import get_precision
from dinojax.ssl.matching import FeatureLoss, FeatureObjective, MatchingModel, TokenFeatures

BATCH, PX = 8, 32
KEYS = {
    "distillation.teacher": "random",
    "distillation.objective": "features",
    "distillation.backbone.embed_dim": 24,
    "distillation.backbone.depth": 1,
    "distillation.backbone.num_heads": 2,
    "distillation.backbone.patch_size": 8,
    "distillation.matching.cls_smooth_l1_weight": 0.5,
    "student.embed_dim": 16,
    "student.depth": 1,
    "student.drop_path_rate": 0.25,
    "crops.global_crops_size": PX,
    "crops.local_crops_number": 0,
    "data.canvas_px": PX,
    "knn.image_px": PX,
    "optim.lr.warmup_steps": 0,
    "optim.momentum.peak": 0.5,
    "train.batch_size": BATCH,
    "train.draw_group_size": 2,
    "train.precision": "float64",
}
CONVNEXT = {
    "student.arch": "convnext_tiny",
    "student.depths": (1, 1, 1, 1),
    "student.dims": (4, 4, 8, 16),
    "distillation.matching.projection_hidden_dim": 12,
    "student.embed_dim": None,
    "student.depth": None,
    "student.num_heads": None,
}


def config(**overrides: Any) -> Config:
    given = shrink(default_config())
    flat = {name.replace("__", "."): value for name, value in overrides.items()}
    given.update_from_flattened_dict({**KEYS, **flat})
    return parse_config(given)


def convnext(**overrides: Any) -> Config:
    return config(**{k.replace(".", "__"): v for k, v in CONVNEXT.items()}, **overrides)


def batch() -> dict[str, np.ndarray]:
    canvas = np.random.default_rng(0).integers(0, 256, (BATCH, PX, PX, 3), np.uint8)
    return {"canvas": canvas, "size": np.full((BATCH, 2), PX, np.int32)}


def state_of(given: Config) -> Any:
    with jax.enable_x64(True):
        return jax.jit(build.build_init(given))()


@functools.cache
def run(given: Config) -> tuple[Any, dict[str, Any]]:
    """State and metrics after a step."""
    with jax.enable_x64(True):
        return jax.device_get(jax.jit(build.build_train_step(given))(state_of(given), batch()))


def check(found: Any, expected: Any) -> None:
    found = trees.flatten(found)
    for name, x in trees.flatten(expected).items():
        scale = max(np.abs(x).max(), 1e-300)
        np.testing.assert_allclose(found[name], x, rtol=0, atol=1e-10 * scale, err_msg=name)


@pytest.mark.slow
def test_the_terms_are_those_of_the_features():
    """Of a student with patches of 16 px and a teacher with 8: its patches are averaged."""
    given = config()
    model, frozen, state = build_model(given), build_frozen_model(given), state_of(given)
    assert isinstance(frozen, MatchingModel)
    with jax.enable_x64(True):
        inputs = jax.jit(build_inputs.build_inputs(given), static_argnums=1)(batch(), 0)
        _, terms = jax.jit(build_loss.build_loss(given).examine)(state, inputs)
        crops = rearrange(inputs.global_crops, "V (G g) ... -> G (V g) ...", g=2)
        options = {"draws": inputs.draws}
        (ours,) = model.backbone.apply({"params": state.student["backbone"]}, crops, **options)
        (theirs,) = frozen.backbone.apply({"params": state.frozen_teacher["backbone"]}, crops)
        patches = rearrange(theirs.patches, "G b (h w) D -> G b h w D", h=PX // 8)
        patches = resize_grid(patches, (2, 2), method="bilinear", antialias=True)
    pairs = {
        "cls": (ours.cls, np.asarray(theirs.cls)),
        "patch": (ours.patches, np.asarray(rearrange(patches, "G b h w D -> G b (h w) D"))),
    }
    found = {}
    for token, (student, target) in pairs.items():
        dense = jax.device_get(state.student[f"{token}_projection"]["mlp_0"])
        student = np.asarray(student) @ dense["kernel"] + dense["bias"]
        target = target - target.mean(-1, keepdims=True)
        target = target / np.sqrt((target**2).mean(-1, keepdims=True) + 1e-6)
        norms = np.linalg.norm(student, axis=-1) * np.linalg.norm(target, axis=-1)
        found[f"{token}_cosine"] = (1 - (student * target).sum(-1) / norms).mean()
        size = np.abs(student - target)
        found[f"{token}_smooth_l1"] = np.where(size < 1, size**2 / 2, size - 0.5).mean()
    for name, value in found.items():
        np.testing.assert_allclose(terms[f"{name}_loss"], value, rtol=1e-9)
    weights = {"cls_cosine": 1.0, "cls_smooth_l1": 0.5, "patch_cosine": 0.9, "patch_smooth_l1": 0.1}
    total = sum(weights[name] * value for name, value in found.items())
    np.testing.assert_allclose(terms["total_loss"], total, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("make", [config, convnext])
def test_the_update_is_that_of_the_whole_batch(make):
    """In micro-batches. Student, projections and EMA move, the teacher does not."""
    given = make()
    after, metrics = run(make(train__micro_batches=2))
    check((after, metrics), run(given))
    before = state_of(given)
    check(after.frozen_teacher, before.frozen_teacher)
    moved = {
        name: np.abs(np.subtract(leaf, trees.flatten(before.student)[name])).max()
        for name, leaf in trees.flatten(after.student).items()
    }
    still = {name for name, x in moved.items() if x == 0}
    assert all("mask_token" in name or "local_cls" in name or "qkv/bias" in name for name in still)
    assert metrics["finite"] and {n.split("/")[0] for n in moved} == set(after.student)


@pytest.mark.slow
def test_the_same_on_a_mesh():
    given = config(train__micro_batches=2)
    mesh = meshes.make_mesh(data=1, fsdp=2, devices=jax.devices()[:2])
    with jax.enable_x64(True), jax.set_mesh(mesh):
        state = state_of(given)
        layout = (meshes.shardings(mesh, state), meshes.batch_sharding(mesh))
        step = jax.jit(build.build_train_step(given), in_shardings=layout)
        found = jax.device_get(step(*jax.device_put((state, batch()), layout)))
    check(found, run(given))


@pytest.mark.slow
def test_a_student_that_is_the_teacher_has_nothing_to_learn():
    """With projections that leave features as they are, and the teacher's as they are."""
    given = config(distillation__backbone__embed_dim=16, distillation__backbone__patch_size=None)
    with jax.enable_x64(True):
        frozen, state = build_frozen_model(given), state_of(given)
        assert isinstance(frozen, MatchingModel)
        same = Projection(16, get_precision("float64"))
        loss = FeatureLoss(
            MatchingModel(frozen.backbone, same, same.clone()),
            frozen,
            FeatureObjective(),
            build_loss.build_step_loss(given).schedules,
            norm=lambda features: features,
        )
        identity = {"mlp_0": {"kernel": jnp.eye(16), "bias": jnp.zeros(16)}}
        projections = {"cls_projection": identity, "patch_projection": identity}
        state = state._replace(student={**state.frozen_teacher, **projections})
        inputs = jax.jit(build_inputs.build_step_views(given), static_argnums=1)(batch(), 0)
        _, terms = jax.jit(loss.examine)(state, inputs)
    assert max(abs(float(x)) for x in terms.values()) < 1e-12


def test_the_parts_of_the_total():
    one, two = (TokenFeatures(jnp.ones((1, 2, 3)) * s, jnp.ones((1, 2, 4, 3))) for s in (1, 3))
    total, terms = FeatureObjective(0.0, 1.0, 0.0, 0.0, smooth_l1_beta=0.5)(one, two)
    assert float(total) == float(terms["cls_smooth_l1_loss"]) == 1.75
    assert float(terms["patch_smooth_l1_loss"]) == 0


def test_the_plan_knows_it():
    """More width, more bytes; micro-batches and a mesh take from them."""

    def losses(shape=(1, 1, 1), **overrides):
        given = config(train__precision="float32", **overrides)
        state = jax.eval_shape(build.build_init(given))
        return high_points(given, MeshShape(*shape), state)["losses"]

    base = losses().logits
    assert losses(train__micro_batches=2).logits < base / 1.5
    assert losses((2, 1, 1)).logits < base / 1.5
    assert losses(distillation__backbone__embed_dim=48).logits > 1.5 * base
    assert losses(distillation__matching__projection_hidden_dim=64).logits > base
