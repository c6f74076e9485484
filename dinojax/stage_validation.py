"""Keys of the stages after pretraining: those that contradict each other, and those left over."""

from dataclasses import fields

from dinojax.build import TEACHER_NORMS, build_views, predicted_grid
from dinojax.build_gram import AUTO, EMA
from dinojax.build_model import FEATURES, backbone_of
from dinojax.config import Config
from dinojax.config_method import HeadConfig
from dinojax.config_stages import DistillationConfig, GramConfig, InitConfig, MatchingConfig
from dinojax.kernels.resize import METHODS
from dinojax.precision import get_precision
from dinojax.ssl.gram import TOKENS
from dinojax.starting_weights import is_released

PROTOTYPES = "prototypes"
KINDS = ("cosine", "smooth_l1")


def check_init(config: InitConfig) -> None:
    """Raises ValueError: a key that would be ignored."""
    if config.resume and config.from_ is None:
        raise ValueError(
            "init.resume=True has no run to go on with; set init.from to its workdir, or "
            "init.resume to False"
        )
    if config.resume and is_released(config.from_ or ""):
        raise ValueError(
            f"init.resume=True goes on with a whole run, and init.from={config.from_!r} is a "
            "backbone; set init.resume to False"
        )


def check_recovery(config: Config) -> None:
    """Raises ValueError: names the key, its value, the rule and a value that works."""
    given, steps = config.recovery, config.train.steps
    if given.max_steps is None:
        changed = [
            f"recovery.{field.name}={getattr(given, field.name)}"
            for field in fields(given)
            if getattr(given, field.name) != field.default
        ]
        if changed:
            raise ValueError(
                f"{', '.join(changed)} is for a phase that recovery.max_steps=None leaves out; set "
                f"recovery.max_steps, e.g. to {max(steps // 10, 1)}, or the rest to its defaults"
            )
        return
    if config.init.from_ is None or config.init.resume:
        raise ValueError(
            f"recovery.max_steps={given.max_steps} is for a backbone without heads; set init.from "
            "to its file and init.resume to False, or recovery.max_steps to None"
        )
    if config.distillation.teacher is not None:
        raise ValueError(
            f"recovery.max_steps={given.max_steps} makes heads for the EMA teacher, and "
            f"distillation.teacher={config.distillation.teacher!r} has its own; set "
            "recovery.max_steps to None"
        )
    if given.max_steps + given.warmup_steps > steps:
        raise ValueError(
            f"recovery.max_steps={given.max_steps} and warmup_steps={given.warmup_steps} may take "
            f"longer than train.steps={steps}, and the backbone would never learn at its full "
            "rate; shorten them or train longer"
        )


def check_gram(config: Config, patch_size: int) -> None:
    """Of a configuration of one resolution.

    Raises:
        ValueError: names the key, its value, the rule and a value that works.
    """
    gram, size = config.gram, build_views(config).gram_teacher_crops_size
    if not gram.use_loss:
        for name, absent in (
            ("gram_teacher_crops_size", None),
            ("gram_teacher_no_distortions", False),
        ):
            value = getattr(config.crops, name)
            if value != absent:
                raise ValueError(
                    f"crops.{name}={value} is for Gram anchoring, and gram.use_loss=False; set it "
                    f"to {absent}, or gram.use_loss to True"
                )
        if gram != GramConfig():
            odd = [f.name for f in fields(gram) if getattr(gram, f.name) != f.default]
            raise ValueError(
                f"gram.{odd[0]}={getattr(gram, odd[0])!r} is for Gram anchoring, and gram.use_loss="
                "False; set it to its default, or gram.use_loss to True"
            )
        return
    _check_teacher(gram, size, config.train.steps)
    check_auto_teacher(config)
    _check_options(gram)
    _check_statistics(config)
    if size is not None and (size < patch_size or size % patch_size):
        below = max(size // patch_size * patch_size, patch_size)
        raise ValueError(
            f"crops.gram_teacher_crops_size={size} is not a multiple of patch_size={patch_size}; "
            f"use {below} or {below + patch_size}"
        )


def _check_teacher(gram: GramConfig, size: int | None, steps: int) -> None:
    updates = gram.load_ema_step is not None or gram.update_every_steps is not None
    if gram.teacher is None and gram.load_ema_step is None:
        raise ValueError(
            "gram.use_loss=True has no Gram teacher; set gram.teacher to a checkpoint or to 'ema', "
            "or gram.load_ema_step to the step of the EMA teacher that it is to copy, e.g. to 0"
        )
    if gram.teacher == EMA and (updates or size is not None):
        raise ValueError(
            "gram.teacher='ema' is the EMA teacher itself, which sees the global crops and is not "
            "copied; set crops.gram_teacher_crops_size, gram.load_ema_step and "
            "gram.update_every_steps to None"
        )
    for name in ("load_ema_step", "first_update_step"):
        value = getattr(gram, name) or 0
        if not 0 <= value < steps:
            raise ValueError(f"gram.{name}={value} must lie in 0..{steps - 1}: train.steps={steps}")
    for name in ("update_every_steps", "max_updates"):
        value = getattr(gram, name)
        if value is not None and value < 1:
            raise ValueError(f"gram.{name}={value} must be at least 1, or None")
    if gram.update_every_steps is None and (gram.first_update_step or gram.max_updates):
        raise ValueError(
            f"gram.first_update_step={gram.first_update_step} and max_updates={gram.max_updates} "
            "are for gram.update_every_steps=None; set it, e.g. to 10000, or them to 0 and None"
        )


def check_auto_teacher(config: Config) -> None:
    """Raises ValueError: there is no earlier run to choose the Gram teacher from."""
    if config.gram.teacher == AUTO and config.init.from_ is None:
        raise ValueError(
            "gram.teacher='auto' is a snapshot of the run that this one goes on from, and "
            "init.from=None; set init.from to its workdir, or gram.teacher to a checkpoint"
        )


def _check_options(gram: GramConfig) -> None:
    for name, value, known in (
        ("tokens_used", gram.tokens_used, TOKENS),
        ("global_teacher_resize_method", gram.global_teacher_resize_method, METHODS),
    ):
        if value not in known:
            raise ValueError(f"gram.{name}={value!r} is unknown; use one of {known}")
    if gram.img_level and gram.tokens_used != "all":
        raise ValueError(
            f"gram.tokens_used={gram.tokens_used!r} differ in number from image to image; set "
            "gram.img_level to False"
        )
    if gram.remove_neg and gram.remove_only_teacher_neg:
        raise ValueError(
            "gram.remove_neg and gram.remove_only_teacher_neg exclude each other; set one to False"
        )


def _check_statistics(config: Config) -> None:
    """Masked and unmasked patches are as many in each group by DINOv3's rule alone."""
    gram = config.gram
    if config.ibot.mask_rule != "dinov2" or (gram.tokens_used == "all" and not gram.compute_stats):
        return
    key = "compute_stats=True" if gram.compute_stats else f"tokens_used={gram.tokens_used!r}"
    raise ValueError(
        f"gram.{key} needs as many masked patches in every step, and ibot.mask_rule='dinov2' draws "
        "their number; set gram.compute_stats=False and gram.tokens_used='all', or "
        "ibot.mask_rule='dinov3'"
    )


def check_distillation(config: Config) -> None:
    """Of a configuration of one resolution.

    Raises:
        ValueError: names the key, its value, the rule and a value that works.
    """
    given, scale = config.distillation, config.crops.teacher_to_student_resolution_scale
    if given.objective not in (PROTOTYPES, FEATURES):
        raise ValueError(
            f"distillation.objective={given.objective!r} is unknown; use {PROTOTYPES!r} or "
            f"{FEATURES!r}"
        )
    if given.objective == PROTOTYPES and config.crops.local_crops_number < 1:
        raise ValueError("crops.local_crops_number=0 leaves nothing to compare; use 8")
    if given.teacher is None:
        if scale != 1:
            raise ValueError(
                f"crops.teacher_to_student_resolution_scale={scale} is for distillation, where the "
                "teacher may have other patches than the student; set it to 1.0"
            )
        if given.students:
            raise ValueError(
                "distillation.students learn from a frozen teacher, and distillation.teacher=None; "
                "set it to a checkpoint"
            )
        if given != DistillationConfig():
            raise ValueError(
                "distillation.objective, matching, backbone, dino_head and ibot_head describe a "
                "frozen teacher, and distillation.teacher=None; set it to a checkpoint, or them to "
                "their defaults"
            )
        return
    _check_teacher_grid(config)
    if given.objective == FEATURES:
        _check_matching(config)
        return
    if given.matching != MatchingConfig():
        raise ValueError(
            f"distillation.matching is for objective={FEATURES!r}, and distillation.objective="
            f"{PROTOTYPES!r}; set that, or it to its defaults"
        )
    for name, ours, theirs in (
        ("dino", config.dino.head.n_prototypes, given.dino_head.n_prototypes),
        ("ibot", config.ibot.head.n_prototypes, given.ibot_head.n_prototypes),
    ):
        if ours != theirs:
            raise ValueError(
                f"{name}.head.n_prototypes={ours} must be those of the frozen teacher's head, "
                f"distillation.{name}_head.n_prototypes={theirs}; use {theirs}"
            )
    if config.gram.teacher == EMA:
        raise ValueError(
            "gram.teacher='ema' has no patches in distillation, where the EMA of the student gives "
            "no targets; use a checkpoint or gram.load_ema_step"
        )
    _check_grids(config)


def check_students(config: Config) -> None:
    """Raises ValueError: what several students cannot have."""
    for key, value, absent in (
        ("gram.use_loss", config.gram.use_loss, False),
        ("init.from", config.init.from_, None),
    ):
        if value != absent:
            raise ValueError(
                f"{key}={value!r} is for one student, and distillation.students has "
                f"{len(config.distillation.students)}; set it to {absent}"
            )


def _check_matching(config: Config) -> None:
    given = config.distillation
    matching = given.matching
    if HeadConfig() != given.dino_head or HeadConfig() != given.ibot_head:
        raise ValueError(
            f"distillation.dino_head and ibot_head describe heads of the frozen teacher, which "
            f"distillation.objective={FEATURES!r} does without; set them to their defaults"
        )
    if config.crops.local_crops_number:
        raise ValueError(
            f"crops.local_crops_number={config.crops.local_crops_number} are crops that the frozen "
            f"teacher does not see, so distillation.objective={FEATURES!r} cannot use them; set it "
            "to 0"
        )
    if config.gram.use_loss:
        raise ValueError(
            f"gram.use_loss=True has no place beside distillation.objective={FEATURES!r}, which "
            "compares patches itself; set it to False"
        )
    if matching.teacher_norm not in TEACHER_NORMS:
        raise ValueError(
            f"distillation.matching.teacher_norm={matching.teacher_norm!r} is unknown; use one of "
            f"{list(TEACHER_NORMS)}"
        )
    names = [f"{token}_{kind}_weight" for token in ("cls", "patch") for kind in KINDS]
    weights = [getattr(matching, name) for name in names]
    if min(weights) < 0 or not any(weights):
        raise ValueError(
            f"distillation.matching weighs its losses by {weights}; let none be below 0, and one "
            "be above"
        )
    hidden = matching.projection_hidden_dim
    for name, value, works in (
        ("smooth_l1_beta", matching.smooth_l1_beta, 1.0),
        ("projection_hidden_dim", 1 if hidden is None else hidden, 2048),
    ):
        if value <= 0:
            raise ValueError(f"distillation.matching.{name}={value} must be above 0; use {works}")


def _teacher_patch(config: Config) -> int:
    precision = get_precision(config.train.precision)
    return backbone_of(config.distillation.backbone, precision).stride


def _check_teacher_grid(config: Config) -> None:
    side, patch = build_views(config).global_crops_size, _teacher_patch(config)
    scale = config.crops.teacher_to_student_resolution_scale
    if scale <= 0 or side % scale or side / scale % patch:
        raise ValueError(
            f"crops.global_crops_size={side} over teacher_to_student_resolution_scale={scale} is "
            f"not a multiple of the frozen teacher's patch_size={patch}"
        )


def _check_grids(config: Config) -> None:
    side, patch = build_views(config).global_crops_size, _teacher_patch(config)
    scale = config.crops.teacher_to_student_resolution_scale
    ours, theirs = predicted_grid(config), round(side / scale) // patch
    if ours != theirs:
        raise ValueError(
            f"at crops.global_crops_size={side} the student has {ours}x{ours} patches and the "
            f"frozen teacher {theirs}x{theirs}; set crops.teacher_to_student_resolution_scale="
            f"{side / (ours * patch)}"
        )
