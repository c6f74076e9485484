"""Translates the reference's option names and state dicts for the golden tests."""

import dataclasses
import re
from typing import Any

import goldens
import numpy as np
from einops import rearrange

from dinojax.config import Config, CropsConfig, TrainConfig
from dinojax.config.backbone import BackboneConfig, StudentConfig
from dinojax.config.method import DinoConfig, HeadConfig, IbotConfig, OptimConfig, ScheduleConfig
from dinojax.config.stages import DistillationConfig, GramConfig
from dinojax.export.names import to_torch
from dinojax.models.convnext import ConvNeXt
from dinojax.models.features import Features
from dinojax.models.vit import VisionTransformer
from dinojax.precision import POLICIES
from dinojax.ssl.forward import SslModel

RENAMED = {
    "layerscale_init": "layerscale",
    "init_values": "layerscale",
    "layer_scale_init_value": "layerscale",
    "num_register_tokens": "n_storage_tokens",
}
NOT_OF_THE_MODEL = (
    "class_",
    "in_chans",
    "drop_path_rate",
    "pos_embed_rope_dtype",
    "pos_embed_rope_shift_coords",
    "pos_embed_rope_jitter_coords",
    "pos_embed_rope_rescale_coords",
    "img_size",
    "block_chunks",
    "train",
)
DINOV2_FFN = {"swiglufused": "swiglu"}
ROPE_PRECISION = {"fp32": POLICIES["float32"].rope, "bf16": POLICIES["reference"].rope}
BF16_ROPE_ATOL = 1e-2
"""From the golden README: rounding q and k to bf16 moves outputs by about 1e-3."""


def vit_from_options(options: dict[str, Any]) -> VisionTransformer:
    """A ViT from constructor options of either reference's ``DinoVisionTransformer``."""
    fields = {RENAMED.get(k, k): v for k, v in options.items() if k not in NOT_OF_THE_MODEL}
    if is_dinov2(options):
        fields["pos_embed_grid"] = options["img_size"] // options["patch_size"]
        fields["ffn_layer"] = DINOV2_FFN.get(options.get("ffn_layer", "mlp"), "mlp")
    precision = dataclasses.replace(
        POLICIES["float32"], rope=ROPE_PRECISION[options.get("pos_embed_rope_dtype", "bf16")]
    )
    return VisionTransformer(precision=precision, **{"layerscale": None, **fields})


def convnext_from_options(options: dict[str, Any]) -> ConvNeXt:
    """From constructor options of the reference's ``ConvNeXt``."""
    fields = {RENAMED.get(k, k): v for k, v in options.items() if k not in NOT_OF_THE_MODEL}
    sizes = {name: tuple(fields.pop(name)) for name in ("depths", "dims")}
    return ConvNeXt(precision=POLICIES["float32"], **sizes, **fields)


def is_dinov2(options: dict[str, Any]) -> bool:
    return options["class_"].startswith("dinov2.")


def features_dict(features: Features, registers: str = "x_storage_tokens") -> dict[str, Any]:
    """Features of one group under the reference's names; DINOv2 has another one for registers."""
    return {
        "x_norm_clstoken": features.cls[0],
        registers: features.registers[0],
        "x_norm_patchtokens": features.patches[0],
        "x_prenorm": features.prenorm[0],
    }


def atol_of(options: dict[str, Any]) -> float | None:
    """None (the manifest's own tolerance), or the README's for bf16 RoPE."""
    if is_dinov2(options):
        return None
    return BF16_ROPE_ATOL if options.get("pos_embed_rope_dtype", "bf16") == "bf16" else None


def without_chunk(name: str) -> str:
    """A name of DINOv2's state dicts without the number of a chunk of blocks."""
    return re.sub(r"^blocks\.\d+\.(?=\d)", "blocks.", name)


def check_gradients(path: str, tag: str, grads: Any, *, atol: float | None = None) -> None:
    """Compare the gradient of every parameter that the golden file lists below ``<tag>/grad``."""
    prefix = f"{tag}/grad" if tag else "grad"
    ours = to_torch(grads)
    listed = goldens.children(path, prefix)
    assert listed, f"{path} has no gradients below {prefix}"
    for name in listed:
        value = ours[without_chunk(name)].reshape(listed[name].shape)
        goldens.check(path, f"{prefix}/{name}", value, atol=atol)
    absent = f"{tag}/params_without_grad" if tag else "params_without_grad"
    for name in goldens.arrays(path).get(absent, np.array([])):
        assert not ours[str(name)].any(), f"{name} has no gradient in the reference"


def to_nchw(x: Any) -> np.ndarray:
    return rearrange(np.asarray(x), "b h w c -> b c h w")


def model_from_reference(recorded: dict[str, Any], model: SslModel) -> SslModel:
    """The same model with the precision that a recorded run used."""
    precision = dataclasses.replace(
        POLICIES["float32"], rope=ROPE_PRECISION[recorded["rope_dtype"]]
    )
    return SslModel(*(module.clone(precision=precision) for module in model))


def schedules_from_reference(cfg: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's schedules from the reference's keys, already scaled by its batch size."""
    epoch, optim = cfg["train"]["OFFICIAL_EPOCH_LENGTH"], cfg["optim"]
    if "schedules" in cfg:
        given = cfg["schedules"]
        return {
            "lr": schedule_v2(given["lr"], epoch),
            "weight_decay": schedule_v2(given["weight_decay"], epoch),
            "momentum": schedule_v2(given["momentum"], epoch),
            "teacher_temp": schedule_v2(given["teacher_temp"], epoch),
            "freeze_last_layer_steps": given["lr"].get("freeze_last_layer_epochs", 0) * epoch,
        }
    teacher = cfg["teacher"]

    def v1(start, peak, end, warmup_epochs=0):
        return ScheduleConfig(
            family="dinov2",
            start=float(start),
            peak=float(peak),
            end=float(end),
            warmup_steps=warmup_epochs * epoch,
            trunc_extra=float(optim["schedule_trunc_extra"]),
        )

    return {
        "lr": v1(0, optim["lr"], optim["min_lr"], optim["warmup_epochs"]),
        "weight_decay": v1(0, optim["weight_decay"], optim["weight_decay_end"]),
        "momentum": v1(0, teacher["momentum_teacher"], teacher["final_momentum_teacher"]),
        "teacher_temp": dataclasses.replace(
            v1(
                teacher["warmup_teacher_temp"],
                teacher["teacher_temp"],
                teacher["teacher_temp"],
                teacher["warmup_teacher_temp_epochs"],
            ),
            trunc_extra=0.0,
        ),
        "freeze_last_layer_steps": optim["freeze_last_layer_epochs"] * epoch,
    }


def schedule_v2(given: dict[str, Any], epoch: int) -> ScheduleConfig:
    cosine = given.get("cosine_epochs")
    return ScheduleConfig(
        family="dinov3",
        start=float(given["start"]),
        peak=float(given["peak"]),
        end=float(given["end"]),
        warmup_steps=given["warmup_epochs"] * epoch,
        cosine_steps=None if cosine is None else cosine * epoch,
    )


def gram_from_reference(gram: dict[str, Any], epoch: int) -> GramConfig:
    """There a schedule takes the place of the weight; -1, False and None mean never."""
    same = (
        *("img_level", "normalized", "remove_neg", "remove_only_teacher_neg", "tokens_used"),
        *("global_teacher_resize_method", "global_teacher_resize_antialias", "compute_stats"),
    )
    weight = gram["loss_weight"]
    schedule = gram["loss_weight_schedule"] or {
        **dict.fromkeys(("start", "peak", "end"), weight),
        "warmup_epochs": 0,
    }
    updates = {}
    if gram["rep_update"] and gram["use_loss"]:
        updates = {
            "update_every_steps": gram["update_frequency"],
            "first_update_step": gram["it_first_update"],
            "max_updates": gram["max_updates"],
        }
    load = gram["it_load_ema_teacher"]
    return GramConfig(
        use_loss=gram["use_loss"],
        loss_weight=schedule_v2(schedule, epoch),
        teacher="ema" if gram["ema_teacher"] else gram["ckpt"],
        # There a flag of the EMA teacher wants a step too, and does nothing with it.
        load_ema_step=None if gram["ema_teacher"] or load < 0 else load,
        **updates,
        **{name: gram[name] for name in same},
    )


def backbone_fields(section: dict[str, Any], arch: dict[str, Any]) -> dict[str, Any]:
    """Of `BackboneConfig`."""
    if "depths" in arch:
        sizes = {name: tuple(arch[name]) for name in ("depths", "dims")}
        return {"arch": "convnext_tiny", "patch_size": section["patch_size"], **sizes}
    same = (
        "patch_size",
        "ffn_layer",
        "qkv_bias",
        "proj_bias",
        "ffn_bias",
        "mask_k_bias",
        "norm_layer",
        "layerscale",
        "n_storage_tokens",
        "untie_cls_and_patch_norms",
        "untie_global_and_local_cls_norm",
        "pos_embed_rope_min_period",
        "pos_embed_rope_max_period",
        "pos_embed_rope_normalize_coords",
    )
    return {
        "arch": "vits16",
        "embed_dim": arch["embed_dim"],
        "depth": arch["depth"],
        "num_heads": arch["num_heads"],
        "ffn_ratio": float(arch["ffn_ratio"]),
        "pos_embed_rope_base": section["pos_embed_rope_base"] or 0.0,
        **{name: section[name] for name in same},
    }


def config_from_reference(recorded: dict[str, Any]) -> Config:
    """Our configuration of a recorded run (``meta/*/config.json``)."""
    cfg = recorded["cfg"]
    student, dino, ibot, optim = (cfg[k] for k in ("student", "dino", "ibot", "optim"))
    training_only = (
        "pos_embed_rope_shift_coords",
        "pos_embed_rope_jitter_coords",
        "pos_embed_rope_rescale_coords",
        "drop_path_rate",
    )

    def head(section):
        return HeadConfig(
            section["head_n_prototypes"],
            section["head_bottleneck_dim"],
            section["head_nlayers"],
            section["head_hidden_dim"],
        )

    def frozen() -> DistillationConfig:
        """Written out by the generator: the student's sections but for three keys."""
        path = cfg["distillation"]["full_cfg_path"]
        said = dict(re.findall(r"(\w+)=(\w+)", path))
        fields = backbone_fields(student, recorded["archs"][said["arch"]])
        fields["n_storage_tokens"] = int(said["n_storage_tokens"])
        backbone = BackboneConfig(**fields)
        return DistillationConfig(
            "random", backbone=backbone, dino_head=head(dino), ibot_head=head(ibot)
        )

    epoch = cfg["train"]["OFFICIAL_EPOCH_LENGTH"]
    local_weight = ScheduleConfig(start=1.0, peak=1.0, end=1.0)
    if dino["reweight_dino_local_loss"]:
        local_weight = schedule_v2(dino["local_loss_weight_schedule"], epoch)
    steps = optim["epochs"] * epoch
    return Config(
        student=StudentConfig(
            **backbone_fields(student, recorded["archs"][student["arch"]]),
            **{k: student[k] for k in training_only},
        ),
        dino=DinoConfig(
            loss_weight=dino["loss_weight"],
            global_ignore_diagonal=dino["global_ignore_diagonal"],
            head=head(dino),
            koleo_loss_weight=dino["koleo_loss_weight"],
            koleo_group_size=dino["koleo_distributed_loss_group_size"],
            koleo_topk=dino["koleo_topk"],
            local_loss_weight=local_weight,
        ),
        ibot=IbotConfig(loss_weight=ibot["loss_weight"], head=head(ibot)),
        gram=gram_from_reference(cfg["gram"], epoch),
        distillation=frozen() if cfg["distillation"]["enabled"] else DistillationConfig(),
        crops=CropsConfig(
            local_crops_number=cfg["crops"]["local_crops_number"],
            global_crops_size=cfg["crops"]["global_crops_size"],
            gram_teacher_crops_size=cfg["crops"]["gram_teacher_crops_size"],
        ),
        optim=OptimConfig(
            # Recorded configs are after apply_scaling_rules_to_cfg, which touches v1 values only.
            scaling_rule=optim["scaling_rule"] if "schedules" in cfg else "none",
            clip_grad=optim["clip_grad"],
            layerwise_decay=optim["layerwise_decay"],
            patch_embed_lr_mult=optim["patch_embed_lr_mult"],
            adamw_beta1=optim["adamw_beta1"],
            adamw_beta2=optim["adamw_beta2"],
            **schedules_from_reference(cfg),
        ),
        train=TrainConfig(
            steps=steps,
            batch_size=cfg["train"]["batch_size_per_gpu"],
            draw_group_size=None,
            precision="float32",
            centering=cfg["train"]["centering"],
        ),
    )
