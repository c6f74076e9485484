"""Whole training steps against the reference: losses, gradients, parameters, EMA."""

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from reference import BF16_ROPE_ATOL, config_from_reference, model_from_reference

from dinojax.build import build_loss, build_optimizer
from dinojax.export.names import from_torch, to_torch
from dinojax.kernels.rope import CoordinateDraws
from dinojax.models.block import KeptRows
from dinojax.models.vit import CropDraws
from dinojax.ssl.forward import student_forward, teacher_forward
from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.state import TrainState
from dinojax.ssl.step import make_train_step

pytestmark = pytest.mark.golden

CASES = [
    p.split("/")[1]
    for p in goldens.files("meta/", "/results.npz")
    if not p.startswith(goldens.NOT_COVERED_YET)
]
SUBMODULES = ("backbone", "dino_head", "ibot_head")
METRICS = {  # ours: theirs
    "total_loss": "total_loss",
    "dino_local_crops_loss": "dino_local_crops_loss",
    "dino_global_crops_loss": "dino_global_crops_loss",
    "koleo_loss": "koleo_loss",
    "ibot_loss": "ibot_loss",
    "backbone_grad_norm": "backbone_grad_norm",
    "dino_head_grad_norm": "dino_head_grad_norm",
    "ibot_head_grad_norm": "ibot_head_grad_norm",
    "lr": "lr",
    "last_layer_lr": "last_layer_lr",
    "weight_decay": "wd",
    "momentum": "momentum",
    "teacher_temp": "teacher_temp",
    "dino_local_loss_weight": "dino_local_loss_weight",
}


class Case:
    """One golden run: our collaborators, its initial state and its inputs per iteration."""

    def __init__(self, name: str):
        self.path = f"meta/{name}/results.npz"
        self.recorded = goldens.read_json(f"meta/{name}/config.json")
        self.config = config_from_reference(self.recorded)
        self.atol = BF16_ROPE_ATOL if self.recorded["rope_dtype"] == "bf16" else None
        loss = build_loss(self.config)
        self.loss = loss._replace(model=model_from_reference(self.recorded, loss.model))
        self.optimizer = build_optimizer(self.config)
        like = jax.eval_shape(self.loss.model.init, jax.random.key(0))
        arrays = goldens.arrays(self.recorded["init_file"])
        self.student = parameters(arrays, "student", like)
        self.teacher = parameters(arrays, "teacher", like)

    def state(self, student=None, teacher=None) -> TrainState:
        student = self.student if student is None else student
        zero = jnp.zeros((), jnp.int32)
        return TrainState(
            step=zero,
            student=student,
            teacher=self.teacher if teacher is None else teacher,
            moments=self.optimizer.init(student),
            centers=None,
            refused_steps=zero,
            refused_in_a_row=zero,
        )

    def inputs(self, iteration: int) -> StepInputs:
        """The recorded batch and draws; the reference's batch is one group."""
        batch = goldens.children(self.recorded["batches_file"], f"it{iteration}")
        draws = goldens.children(self.path, f"it{iteration}/draws")
        local = self.config.crops.local_crops_number

        def crops(x: np.ndarray, views: int) -> jax.Array:
            return jnp.asarray(rearrange(x, "(V B) c h w -> V B h w c", V=views))

        def group(name: str) -> CropDraws:
            def rope(kind: str):
                value = draws.get(f"rope_{kind}_raw/{name}")
                return None if value is None else jnp.asarray(value)[:, None]

            kept = None
            if f"drop_perm1_kept/{name}" in draws:
                rows = (draws[f"drop_perm{i}_kept/{name}"] for i in (1, 2))
                kept = KeptRows(*(jnp.asarray(r, jnp.int32)[:, None] for r in rows))
            coordinates = CoordinateDraws(rope("shift"), rope("jitter"), rope("rescale"))
            return CropDraws(None if coordinates == CoordinateDraws() else coordinates, kept)

        return StepInputs(
            global_crops=crops(batch["collated_global_crops"], 2),
            local_crops=crops(batch["collated_local_crops"], local),
            masks=jnp.asarray(batch["collated_masks"])[None],
            mask_indices=jnp.asarray(batch["mask_indices_list"], jnp.int32)[None],
            mask_weights=jnp.asarray(batch["masks_weight"])[None],
            draws=(group("group0"), group("group1")),
        )

    def steps(self):
        """The jitted step; the recorded inputs are the batch."""
        step = make_train_step(
            loss=self.loss, optimizer=self.optimizer, make_inputs=lambda batch, step: batch
        )
        return jax.jit(step)


def parameters(arrays: dict, prefix: str, like: dict) -> dict:
    return {
        name: jax.tree.map(
            jnp.asarray,
            from_torch(
                {
                    k.removeprefix(f"{prefix}.{name}."): v
                    for k, v in arrays.items()
                    if k.startswith(f"{prefix}.{name}.")
                },
                like[name],
            ),
        )
        for name in SUBMODULES
    }


def named(params: dict) -> dict[str, np.ndarray]:
    """Our parameters under the reference's names: ``backbone.blocks.0...``."""
    return {
        f"{module}.{k}": v for module in SUBMODULES for k, v in to_torch(params[module]).items()
    }


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return Case(request.param)


def test_forward_outputs(case):
    inputs = case.inputs(0)
    model = case.loss.model
    teacher = jax.jit(teacher_forward, static_argnums=0)(model, case.teacher, inputs)

    def check(name: str, value) -> None:
        goldens.check(case.path, f"it0/inter/{name}", value, atol=case.atol)

    check("teacher/cls_after_head", teacher.cls_logits)
    temperature = case.loss.schedules.teacher_temp(0)
    targets, _ = case.loss.centering(teacher, temperature, None)
    check("teacher/cls_centered", targets.cls_probs)
    check("teacher/masked_patch_centered", targets.patch_probs[0])
    student = jax.jit(student_forward, static_argnums=0)(model, case.student, inputs)
    check("student_global/cls_pre_head", student.global_cls)
    check("student_global/cls_after_head", student.global_logits)
    check("student_local/cls_after_head", student.local_logits)
    check("student_global/masked_patch_after_head", student.patch_logits[0])


def test_gradients(case):
    def total(student):
        loss, _ = case.loss(student, case.teacher, None, case.inputs(0), 0)
        return loss

    grads = named(jax.jit(jax.grad(total))(case.student))
    listed = goldens.children(case.path, "it0/grad")
    assert listed
    for name, expected in listed.items():
        value = grads[name].reshape(expected.shape)
        goldens.check(case.path, f"it0/grad/{name}", value, atol=case.atol)
    names = [str(n) for n in goldens.arrays(case.path)["it0/grad_norm_per_param_names"]]
    norms = [np.linalg.norm(grads[name.removeprefix("student.")]) for name in names]
    goldens.check(case.path, "it0/grad_norm_per_param", np.array(norms), atol=case.atol)


def test_steps(case):
    """Losses and rates of every iteration, parameters and EMA where they were recorded."""
    state, step = case.state(), case.steps()
    results = goldens.arrays(case.path)
    for iteration in range(case.recorded["steps"]):
        state, metrics = step(state, case.inputs(iteration))
        for ours, theirs in METRICS.items():
            name = f"it{iteration}/{theirs}"
            if name in results:
                goldens.check(case.path, name, np.asarray(metrics[ours]).reshape(()))
        after = case.path.replace("results.npz", f"after{iteration + 1}.safetensors")
        if after in goldens.manifest()["files"]:
            check_parameters(case, after, state)
    assert int(state.step) == case.recorded["steps"] and int(state.refused_steps) == 0


def check_parameters(case: Case, path: str, state: TrainState) -> None:
    ours = {f"student.{k}": v for k, v in named(state.student).items()}
    ours |= {f"teacher.{k}": v for k, v in named(state.teacher).items()}
    for name, expected in goldens.arrays(path).items():
        value = ours[name].reshape(expected.shape)
        goldens.check(path, name, value)
        rms = np.sqrt(np.mean(np.square(value.astype(np.float64) - expected)))
        allowed = goldens.column(path, name, "atol_rms")
        assert rms <= allowed, f"{path}:{name} rms off by {rms:.3g}, allowed {allowed:.3g}"


def test_nonfinite_step_changes_nothing(case):
    inputs = case.inputs(0)
    bad = inputs._replace(global_crops=inputs.global_crops.at[0, 0, 0, 0, 0].set(jnp.nan))
    before = case.state()
    after, metrics = case.steps()(before, bad)
    assert not metrics["finite"] and int(after.refused_steps) == 1 and int(after.step) == 1
    for field in ("student", "teacher", "moments"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, field), getattr(before, field))
