"""Recorded training steps of the reference (``meta/``): our collaborators, states and inputs."""

from typing import Any

import goldens
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from reference import BF16_ROPE_ATOL, config_from_reference, model_from_reference

from dinojax.build.loss import build_loss
from dinojax.build.step import build_optimizer
from dinojax.export.names import from_torch, to_torch
from dinojax.kernels.rope import CoordinateDraws
from dinojax.models.block import KeptRows
from dinojax.models.features import CropDraws
from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.state import TrainState, init_state
from dinojax.ssl.step import make_train_step

METRICS = {  # ours: theirs
    "total_loss": "total_loss",
    "dino_local_crops_loss": "dino_local_crops_loss",
    "dino_global_crops_loss": "dino_global_crops_loss",
    "koleo_loss": "koleo_loss",
    "ibot_loss": "ibot_loss",
    "gram_loss": "gram_loss",
    "gram_loss_weight": "gram_loss_weight",
    "stats_only/masked_gram_loss": "stats_only/masked_gram_loss",
    "stats_only/unmasked_gram_loss": "stats_only/unmasked_gram_loss",
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
SUBMODULES = ("backbone", "dino_head", "ibot_head")


class Case:
    """One recorded run.

    Args:
        recorded: its ``config.json``.
        path: its results.
        step: the prefix of an iteration's results, with ``{}`` for its number.
    """

    def __init__(self, recorded: dict[str, Any], path: str, step: str = "it{}"):
        self.recorded, self.path, self.step = recorded, path, step
        self.config = config_from_reference(recorded)
        self.atol = BF16_ROPE_ATOL if recorded.get("rope_dtype") == "bf16" else None
        loss = build_loss(self.config)
        model = model_from_reference(recorded, loss.model)
        gram = loss.gram and loss.gram._replace(backbone=model.backbone)
        frozen = loss.frozen and model_from_reference(recorded, loss.frozen)
        self.loss = loss._replace(model=model, gram=gram, frozen=frozen)
        self.optimizer = build_optimizer(self.config)
        like = jax.eval_shape(model.init, jax.random.key(0))
        arrays = goldens.arrays(recorded["init_file"])
        self.student = parameters(arrays, "student", like)
        # Its word for the EMA of the student where the teacher is another model.
        self.ema = "model_ema" if frozen else "teacher"
        self.teacher = parameters(arrays, self.ema, like)
        self.frozen_teacher = self.gram_teacher = None
        if frozen is not None:
            like = jax.eval_shape(frozen.init, jax.random.key(0))
            self.frozen_teacher = parameters(arrays, "teacher", like)
        if gram is not None and self.config.gram.teacher != "ema":
            self.gram_teacher = submodule(arrays, "gram_teacher.backbone", like["backbone"])

    def state(self) -> TrainState:
        state = init_state(self.student, self.optimizer.init(self.student), None)
        return state._replace(
            teacher=self.teacher,
            gram_teacher=self.gram_teacher,
            frozen_teacher=self.frozen_teacher,
        )

    def prefix(self, iteration: int) -> str:
        return self.step.format(iteration)

    def batch(self, iteration: int) -> dict[str, np.ndarray]:
        if "batches_file" in self.recorded:
            return goldens.children(self.recorded["batches_file"], self.prefix(iteration))
        return goldens.children(self.path, f"{self.prefix(iteration)}/batch")

    def inputs(self, iteration: int) -> StepInputs:
        """The recorded batch and draws; the reference's batch is one group."""
        batch = self.batch(iteration)
        draws = goldens.children(self.path, f"{self.prefix(iteration)}/draws")

        def crops(name: str, views: int) -> jax.Array | None:
            if f"collated_{name}_crops" not in batch:
                return None
            x = batch[f"collated_{name}_crops"]
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
            global_crops=crops("global", 2),
            local_crops=crops("local", self.config.crops.local_crops_number),
            masks=None if self.frozen_teacher else jnp.asarray(batch["collated_masks"])[None],
            mask_indices=jnp.asarray(batch["mask_indices_list"], jnp.int32)[None],
            mask_weights=jnp.asarray(batch["masks_weight"])[None],
            draws=(group("group0"), group("group1")),
            gram_crops=crops("gram_teacher", 2),
        )

    def steps(self):
        """The jitted step; the recorded inputs are the batch."""
        step = make_train_step(
            loss=self.loss, optimizer=self.optimizer, make_inputs=lambda batch, step: batch
        )
        return jax.jit(step)

    def check(self, name: str, value: Any) -> None:
        goldens.check(self.path, name, value, atol=self.atol)

    def check_metrics(self, iteration: int, metrics: dict[str, Any]) -> None:
        """All that are recorded; ours has none of them that the reference has not."""
        prefix, results = self.prefix(iteration), goldens.arrays(self.path)
        recorded = {name for name, theirs in METRICS.items() if f"{prefix}/{theirs}" in results}
        assert metrics.keys() & METRICS.keys() == recorded
        for name in recorded:
            value = np.asarray(metrics[name]).reshape(())
            goldens.check(self.path, f"{prefix}/{METRICS[name]}", value)

    def check_parameters(self, steps: int, state: TrainState) -> None:
        """After so many steps, if they were recorded: student, EMA and Gram teacher."""
        path = self.path.replace("results.npz", f"after{steps}.safetensors")
        if path not in goldens.manifest()["files"]:
            return
        ours = named(state.student, "student.") | named(state.teacher, f"{self.ema}.")
        if state.gram_teacher is not None:
            ours |= named({"backbone": state.gram_teacher}, "gram_teacher.")
        for name, expected in goldens.arrays(path).items():
            # A ConvNeXt lists its final norm twice.
            value = ours[name.replace("norms.3", "norm")].reshape(expected.shape)
            goldens.check(path, name, value)
            rms = np.sqrt(np.mean(np.square(value.astype(np.float64) - expected)))
            allowed = goldens.column(path, name, "atol_rms")
            assert rms <= allowed, f"{path}:{name} rms off by {rms:.3g}, allowed {allowed:.3g}"


def parameters(arrays: dict, prefix: str, like: dict) -> dict:
    return {name: submodule(arrays, f"{prefix}.{name}", like[name]) for name in SUBMODULES}


def submodule(arrays: dict, prefix: str, like: dict) -> dict:
    start = f"{prefix}."
    state = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
    return jax.tree.map(jnp.asarray, from_torch(state, like))


def named(params: dict, prefix: str = "") -> dict[str, np.ndarray]:
    """Our parameters under the reference's names: ``backbone.blocks.0...``."""
    return {
        f"{prefix}{module}.{k}": v for module in params for k, v in to_torch(params[module]).items()
    }
