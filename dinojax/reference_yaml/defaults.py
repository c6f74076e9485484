"""What both reference implementations take for keys that a file leaves out.

Facts of their ``ssl_default_config.yaml``, by dotted key; keys that are read nowhere are left out.
"""

from typing import Any

_HEADS = {
    f"{section}.head_{name}": value
    for section in ("dino", "ibot")
    for name, value in {
        "n_prototypes": 65536,
        "bottleneck_dim": 256,
        "nlayers": 3,
        "hidden_dim": 2048,
    }.items()
}
_COMMON = {
    **_HEADS,
    "dino.loss_weight": 1.0,
    "dino.koleo_loss_weight": 0.1,
    "ibot.loss_weight": 1.0,
    "ibot.mask_sample_probability": 0.5,
    "ibot.mask_ratio_min_max": [0.1, 0.5],
    "train.batch_size_per_gpu": 64,
    "train.OFFICIAL_EPOCH_LENGTH": 1250,
    "train.seed": 0,
    "student.arch": "vit_large",
    "student.patch_size": 16,
    "student.drop_path_rate": 0.3,
    "student.layerscale": 1e-5,
    "student.ffn_layer": "mlp",
    "student.qkv_bias": True,
    "student.proj_bias": True,
    "student.ffn_bias": True,
    "teacher.momentum_teacher": 0.992,
    "teacher.final_momentum_teacher": 1.0,
    "teacher.warmup_teacher_temp": 0.04,
    "teacher.teacher_temp": 0.07,
    "teacher.warmup_teacher_temp_epochs": 30,
    "optim.epochs": 100,
    "optim.weight_decay": 0.04,
    "optim.weight_decay_end": 0.4,
    "optim.warmup_epochs": 10,
    "optim.min_lr": 1e-6,
    "optim.clip_grad": 3.0,
    "optim.freeze_last_layer_epochs": 1,
    "optim.scaling_rule": "sqrt_wrt_1024",
    "optim.patch_embed_lr_mult": 0.2,
    "optim.layerwise_decay": 0.9,
    "optim.adamw_beta1": 0.9,
    "optim.adamw_beta2": 0.999,
    "crops.global_crops_scale": [0.32, 1.0],
    "crops.local_crops_number": 8,
    "crops.local_crops_scale": [0.05, 0.32],
    "crops.global_crops_size": 224,
    "crops.local_crops_size": 96,
    "evaluation.eval_period_iterations": 12500,
}
_DINOV3 = {
    "dino.global_ignore_diagonal": True,
    "dino.koleo_loss_distributed": False,
    "dino.koleo_topk": 1,
    "dino.koleo_distributed_loss_group_size": None,
    "dino.reweight_dino_local_loss": False,
    "ibot.mask_random_circular_shift": False,
    "ibot.separate_head": True,
    "gram.use_loss": False,
    "gram.compute_stats": False,
    "gram.loss_weight": 1.0,
    "gram.ema_teacher": False,
    "gram.it_load_ema_teacher": -1,
    "gram.rep_update": True,
    "gram.update_frequency": 50000,
    "gram.it_first_update": 0,
    "gram.max_updates": None,
    "gram.normalized": True,
    "gram.img_level": False,
    "gram.remove_neg": False,
    "gram.remove_only_teacher_neg": False,
    "gram.tokens_used": "all",
    "gram.global_teacher_resize_method": "bicubic",
    "gram.global_teacher_resize_antialias": False,
    "train.centering": "sinkhorn_knopp",
    "train.checkpointing": False,
    "train.checkpointing_full": False,
    "student.norm_layer": "layernorm",
    "student.n_storage_tokens": 0,
    "student.mask_k_bias": False,
    "student.untie_cls_and_patch_norms": False,
    "student.untie_global_and_local_cls_norm": False,
    "student.pos_embed_rope_base": 100.0,
    "student.pos_embed_rope_min_period": None,
    "student.pos_embed_rope_max_period": None,
    "student.pos_embed_rope_normalize_coords": "separate",
    "student.pos_embed_rope_shift_coords": None,
    "student.pos_embed_rope_jitter_coords": None,
    "student.pos_embed_rope_rescale_coords": None,
    "optim.lr": 1e-3,
    "optim.schedule_trunc_extra": 0.0,
    "crops.global_local_crop_pairs_ratios": 1.0,
    "crops.gram_teacher_crops_size": None,
    "crops.localcrops_subset_of_globalcrops": False,
    "crops.share_color_jitter": False,
    "crops.horizontal_flips": True,
    "crops.gram_teacher_no_distortions": False,
    "crops.rgb_mean": [0.485, 0.456, 0.406],
    "crops.rgb_std": [0.229, 0.224, 0.225],
    "crops.teacher_to_student_resolution_scale": 1.0,
    "checkpointing.period": 3750,
    "checkpointing.max_to_keep": 3,
    "checkpointing.keep_every": 10**17 - 1,
    "compute_precision.param_dtype": "bf16",
    "distillation.enabled": False,
    "multidistillation.enabled": False,
}
_LOCAL_LOSS = {"start": 0.5, "peak": 0.5, "end": 0.5, "warmup_epochs": 0}
_DINOV2 = {
    "ibot.separate_head": False,
    "train.centering": "centering",
    "student.num_register_tokens": 0,
    "student.interpolate_offset": 0.1,
    "student.interpolate_antialias": False,
    "student.drop_path_uniform": True,
    "optim.base_lr": 4e-3,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "dinov3": {
        **_COMMON,
        **_DINOV3,
        **{f"dino.local_loss_weight_schedule.{key}": _LOCAL_LOSS[key] for key in _LOCAL_LOSS},
    },
    "dinov2": {**_COMMON, **_DINOV2},
}
"""By system."""
MARKS = {
    "dinov3": r"(schedules|gram|distillation|multidistillation|hrft)\..*|student\.("
    r"n_storage_tokens|mask_k_bias|norm_layer|untie_.*|pos_embed_.*|fp8_.*)|compute_precision\.(param_dtype|"
    r"reduce_dtype|sharding_strategy)|checkpointing\..*",
    "dinov2": r"student\.(num_register_tokens|block_chunks|interpolate_.*|drop_path_uniform)|"
    r"optim\.base_lr|compute_precision\.(grad_scaler|teacher\..*|student\..*)",
}
"""Keys that tell the systems apart; the first one with any counts."""
