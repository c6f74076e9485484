"""Keys of the reference's files that a configuration here does not have, and why."""

import re
from typing import Any

NOWHERE = "the reference itself reads it nowhere"
_DEAD = (
    r"MODEL\.(DEVICE|DTYPE|WEIGHTS)",
    r"(dino|ibot)\.head_norm_last_layer",
    r"dino\.(force_weight_norm|koleo_distributed_loss_group_data)",
    r"ibot\.force_masking_even_with_zero_weight",
    r"train\.(saveckp_freq|data_config|monitor_gradient_norm|chunk_schedule|use_teacher_head|"
    r"learn_from_teacher_tokens)",
    r"student\.(pretrained_weights|ffn_ratio|in_chans|pos_embed_type|pos_embed_rope_dtype)",
    r"teacher\.in_chans",
    r"hrft\..*",
    r"optim\.(optimizer|dump_fsdp_weights_path|dino_head_wd_multiplier)",
    r"evaluation\.(low_freq_every|config_files\..*)",
)
_DEAD_IN_DINOV3 = (
    r"student\.(patch_drop|block_chunks|drop_path_uniform|drop_path_shape|sin_cos.*|fourier.*|"
    r"mask_attention|init_std_.*|interpolate_.*)",
    r"(student\.|dino\.|)coding_rate_loss.*",
    r"crops\.cell_augmentation.*",
)
_DEAD_WITH_SCHEDULES = (
    r"teacher\..*",
    r"optim\.(lr|min_lr|weight_decay|weight_decay_end|warmup_epochs|freeze_last_layer_epochs|"
    r"schedule_trunc_extra)",
)
_CHECKPOINT = "a checkpoint of PyTorch; dinojax.import_torch makes a snapshot of its backbone for "
_ELSEWHERE = {
    r"MODEL\.META_ARCHITECTURE": "which of its classes trains; set distillation.students",
    r"train\.dataset_path": "names are its own; set data.source to a folder or kind:path",
    r"train\.output_dir": "is --workdir",
    r"train\.num_workers": "counts per GPU there; set data.num_workers, per host",
    r"train\.(compile|cudagraphs)": "every step is compiled",
    r"train\.(cache_dataset|sharded_eval_checkpoint)": "how files are read and written there",
    r"optim\.multi_tensor_optim": "how PyTorch runs the same update",
    r"optim\.lr": "is computed there from base_lr",
    r"compute_precision\.(reduce_dtype|sharding_strategy)": "gradients are summed in float32 "
    "and weights split as mesh.* says",
    r"compute_precision\.(grad_scaler|teacher\..*|student\..*)": "bfloat16 here, which needs no "
    "scaled loss",
    r"student\.block_chunks": "how blocks are grouped for FSDP there",
    r"gram\.ckpt": _CHECKPOINT + "gram.teacher",
    r"student\.resume_from_teacher_chkpt": _CHECKPOINT + "init.from",
    r"distillation\.(enabled|full_cfg_path|checkpoint_path)": "the teacher is in other files; set "
    "distillation.teacher, distillation.backbone and its heads",
    r"multidistillation\.(enabled|students.*)": "its students are in other files; set "
    "distillation.students",
    r"student\.fp8_(enabled|filter)": "there are no float8 products here",
    r"student\.drop_path_uniform": "every block leaves out the same share here",
    r"dino\.koleo_distributed_replicas": "neighbours are searched in dino.koleo_group_size",
}
_OFF = {
    "MODEL.META_ARCHITECTURE": ("SSLMetaArch",),
    "gram.ckpt": (None, ""),
    "student.resume_from_teacher_chkpt": (None, ""),
    "distillation.enabled": (False,),
    "multidistillation.enabled": (False,),
    "student.fp8_enabled": (False,),
    "student.drop_path_uniform": (True,),
    "dino.koleo_distributed_replicas": (0, None),
}
"""Values of keys that ask for nothing, and are honoured by leaving them out."""
_WITH = {
    "student.fp8_filter": "student.fp8_enabled",
    "distillation.full_cfg_path": "distillation.enabled",
    "distillation.checkpoint_path": "distillation.enabled",
}
"""Keys that mean nothing unless another one is set."""


def reason(key: str, given: dict[str, Any], system: str) -> str | None:
    """Why a key of the file `given` is not in the configuration; None: it asks for nothing.

    Unknown keys, which the reference accepts without a word, are told apart from dead ones.
    """
    if key in _WITH and not given.get(_WITH[key]):
        return None
    if key in _OFF and given[key] in _OFF[key]:
        return None
    dead = [*_DEAD, *(_DEAD_IN_DINOV3 if system == "dinov3" else ())]
    if any(name.startswith("schedules.") for name in given):
        dead += _DEAD_WITH_SCHEDULES
    if any(re.fullmatch(pattern, key) for pattern in dead):
        return NOWHERE
    for pattern, why in _ELSEWHERE.items():
        if re.fullmatch(pattern, key):
            return why
    return "unknown: no key of this system"
