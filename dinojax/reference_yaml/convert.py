"""The reference's keys as ours, key by key; `left_out` says what becomes of the others."""

from typing import Any, NamedTuple

from dinojax.config import Config, from_dict, to_dict
from dinojax.models.convnext import ConvNeXt
from dinojax.models.presets import get_preset
from dinojax.precision import get_precision
from dinojax.reference_yaml.left_out import reason
from dinojax.reference_yaml.schedules import schedules
from dinojax.reference_yaml.values import Values

ARCHS = {
    "dinov3": {
        "vit_small": "vits16",
        "vit_base": "vitb16",
        "vit_large": "vitl16",
        "vit_so400m": "vitso400m16",
        "vit_huge2": "vithuge2",
        "vit_giant2": "vitgiant2",
        "vit_7b": "vit7b16",
        **{f"convnext_{size}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")},
    },
    "dinov2": {
        "vit_small": "vits14",
        "vit_base": "vitb14",
        "vit_large": "vitl14",
        "vit_giant2": "vitg14",
    },
}
_SAME = {
    "dinov3": (
        *("patch_size", "ffn_layer", "qkv_bias", "proj_bias", "ffn_bias", "norm_layer"),
        *("layerscale", "n_storage_tokens", "mask_k_bias", "untie_cls_and_patch_norms"),
        *("untie_global_and_local_cls_norm", "pos_embed_rope_base"),
        *("pos_embed_rope_min_period", "pos_embed_rope_max_period"),
        "pos_embed_rope_normalize_coords",
    ),
    "dinov2": (
        *("patch_size", "ffn_layer", "qkv_bias", "proj_bias", "ffn_bias", "layerscale"),
        *("interpolate_offset", "interpolate_antialias"),
    ),
}
"""Keys of backbones that are called the same here."""
_NONE_IS_ZERO = ("layerscale", "pos_embed_rope_base")
_CROPS: dict[str, tuple[str, ...]] = {
    "dinov2": (
        *("global_crops_scale", "local_crops_number", "local_crops_scale"),
        *("global_crops_size", "local_crops_size"),
    ),
}
_CROPS["dinov3"] = (
    *_CROPS["dinov2"],
    *("global_local_crop_pairs_ratios", "localcrops_subset_of_globalcrops", "share_color_jitter"),
    *("horizontal_flips", "rgb_mean", "rgb_std", "teacher_to_student_resolution_scale"),
)
_GRAM = (
    *("compute_stats", "normalized", "img_level", "remove_neg", "remove_only_teacher_neg"),
    *("tokens_used", "global_teacher_resize_method", "global_teacher_resize_antialias"),
)
_REMAT = {(False, False): "none", (True, False): "dots", (True, True): "full"}
_PRECISION = {"bf16": "bfloat16", "fp32": "float32"}
KEPT_FOR_EVER = 10**16
"""Steps between checkpoints that stay, at which none does."""


class LeftOut(NamedTuple):
    """A key of the file that the configuration does not have."""

    key: str
    value: Any
    why: str


class Converted(NamedTuple):
    """A configuration and what it lacks."""

    config: Config
    system: str
    left_out: list[LeftOut]


def convert(values: Values, gpus: int) -> Converted:
    """The configuration that trains what the reference trains with this file.

    Args:
        gpus: that it runs on there; the batch, and so the learning rate, is so many times what the
            file says.

    Raises:
        ValueError: a value that the reference would not take either, or a model not known here.
    """
    found, why = _model(values)
    epoch = values.count("train.OFFICIAL_EPOCH_LENGTH")
    found |= _heads_and_losses(values) | _run(values, gpus, epoch) | _crops(values)
    found |= schedules(values, epoch, gpus)
    if values.system == "dinov3":
        found |= _gram(values, why)
    config = to_dict(Config())
    for key, value in found.items():
        *sections, last = key.split(".")
        node = config
        for section in sections:
            node = node[section]
        node[last] = tuple(value) if isinstance(value, list) else value
    reasons = {
        key: why.get(key) or reason(key, values.given, values.system)
        for key in values.given
        if key in why or key not in values.used
    }
    left = [LeftOut(key, values.given[key], text) for key, text in reasons.items() if text]
    return Converted(from_dict(config), values.system, left)


def _model(values: Values) -> tuple[dict[str, Any], dict[str, str]]:
    """The student, and reasons for what its kind does not have."""
    given, known = values["student.arch"], ARCHS[values.system]
    if given not in known:
        raise ValueError(f"student.arch={given!r} is unknown here; use one of {', '.join(known)}")
    arch, why = known[given], {}
    plain = get_preset(arch).build(get_precision("float32"))
    found = {"student.arch": arch, "student.drop_path_rate": values["student.drop_path_rate"]}
    same: dict[str, Any] = {name: values[f"student.{name}"] for name in _SAME[values.system]}
    if isinstance(plain, ConvNeXt):
        no = "the reference builds ConvNeXts without"
        why = {f"student.{name}": no for name in (*same, "drop_path_rate") if name != "patch_size"}
        same = {"patch_size": same["patch_size"]}
        found["student.drop_path_rate"] = 0.0
    if values.system == "dinov2":
        same["n_storage_tokens"] = values["student.num_register_tokens"]
        same["ffn_layer"] = {"swiglufused": "swiglu"}.get(same["ffn_layer"], same["ffn_layer"])
        side = values.count("crops.global_crops_size")
        same["pos_embed_grid"] = side // values.count("student.patch_size")
    elif not isinstance(plain, ConvNeXt):
        for kind in ("shift", "jitter", "rescale"):
            key = f"student.pos_embed_rope_{kind}_coords"
            found[key] = values[key]
    for name, value in same.items():
        if value is None and name in _NONE_IS_ZERO:
            value = 0.0
        if value != getattr(plain, name):
            found[f"student.{name}"] = value
    return found, why


def _heads_and_losses(values: Values) -> dict[str, Any]:
    found = {}
    for section in ("dino", "ibot"):
        for theirs, ours in (
            *(("n_prototypes", "n_prototypes"), ("bottleneck_dim", "bottleneck_dim")),
            *(("nlayers", "nlayers"), ("hidden_dim", "hidden_dim")),
        ):
            found[f"{section}.head.{ours}"] = values[f"{section}.head_{theirs}"]
        found[f"{section}.head.weight_norm"] = values.system == "dinov2"
    for key in (
        *("dino.loss_weight", "dino.koleo_loss_weight", "ibot.loss_weight"),
        *("ibot.mask_sample_probability", "ibot.mask_ratio_min_max", "ibot.separate_head"),
    ):
        found[key] = values[key]
    if not found["ibot.separate_head"]:
        found |= {
            f"ibot.head.{key.removeprefix('dino.head.')}": value
            for key, value in found.items()
            if key.startswith("dino.head.")
        }
    found["ibot.mask_rule"] = values.system
    if values.system == "dinov3":
        for key in (
            *("dino.global_ignore_diagonal", "dino.koleo_topk"),
            "ibot.mask_random_circular_shift",
        ):
            found[key] = values[key]
    return found


def _run(values: Values, gpus: int, epoch: int) -> dict[str, Any]:
    """Of epochs of so many steps."""
    per_gpu = values.count("train.batch_size_per_gpu")
    batch = per_gpu * gpus
    centering = {"centering": "softmax"}.get(values["train.centering"], values["train.centering"])
    found: dict[str, Any] = {
        "train.batch_size": batch,
        "train.draw_group_size": per_gpu,
        "train.steps": round(values.number("optim.epochs") * epoch),
        "train.seed": values["train.seed"],
        "train.centering": centering,
    }
    for name in (
        *("clip_grad", "patch_embed_lr_mult", "layerwise_decay"),
        *("adamw_beta1", "adamw_beta2"),
    ):
        found[f"optim.{name}"] = values[f"optim.{name}"]
    period = values.count("evaluation.eval_period_iterations")
    found["knn.every_steps"] = max(period, 0)
    if values.system == "dinov2":
        return found
    remat = (bool(values["train.checkpointing"]), bool(values["train.checkpointing_full"]))
    found["student.remat"] = _REMAT.get(remat, "none")
    dtype = values["compute_precision.param_dtype"]
    if dtype not in _PRECISION:
        raise ValueError(f"compute_precision.param_dtype={dtype!r}; use one of {[*_PRECISION]}")
    found["train.precision"] = _PRECISION[dtype]
    if values["dino.koleo_loss_distributed"]:
        group = values["dino.koleo_distributed_loss_group_size"]
        found["dino.koleo_group_size"] = group or batch
    else:
        values.used.add("dino.koleo_distributed_loss_group_size")
    found["checkpoint.every_steps"] = values.count("checkpointing.period")
    found["checkpoint.keep_last"] = values["checkpointing.max_to_keep"]
    keep = values.count("checkpointing.keep_every")
    found["checkpoint.keep_every_steps"] = keep if keep < KEPT_FOR_EVER else None
    if values.get("multidistillation.enabled"):
        values.used.discard("multidistillation.enabled")
        batch = values.get("multidistillation.global_batch_size", batch)
        found |= {"train.batch_size": batch, "train.draw_group_size": None}
    return found


def _crops(values: Values) -> dict[str, Any]:
    found = {f"crops.{name}": values[f"crops.{name}"] for name in _CROPS[values.system]}
    sizes = found["crops.global_crops_size"]
    largest = max(sizes) if isinstance(sizes, list) else sizes
    found["data.canvas_px"] = max(largest, Config().data.canvas_px)
    return found


def _gram(values: Values, why: dict[str, str]) -> dict[str, Any]:
    """Of a run with Gram anchoring; without it nothing here would be read."""
    crops = ("crops.gram_teacher_crops_size", "crops.gram_teacher_no_distortions")
    sizes, plain = (values[key] for key in crops)
    if not values["gram.use_loss"]:
        why |= {key: "no Gram loss uses these crops" for key in crops if values.given.get(key)}
        values.used |= {key for key in values.given if key.startswith("gram.")} - {"gram.ckpt"}
        return {}
    found = {f"gram.{name}": values[f"gram.{name}"] for name in _GRAM}
    found |= {"gram.use_loss": True, crops[1]: plain}
    if sizes is not None:
        found[crops[0]] = sizes
        largest = max(sizes) if isinstance(sizes, list) else sizes
        found["data.canvas_px"] = max(largest, _crops(values)["data.canvas_px"])
    load = values.count("gram.it_load_ema_teacher")
    if values["gram.ema_teacher"]:
        found["gram.teacher"] = "ema"
    elif load >= 0:
        found["gram.load_ema_step"] = load
    update = {
        "gram.update_every_steps": values["gram.update_frequency"],
        "gram.first_update_step": values["gram.it_first_update"],
        "gram.max_updates": values["gram.max_updates"],
    }
    repeated = values["gram.rep_update"] and not values["gram.ema_teacher"]
    return found | update if repeated else found
