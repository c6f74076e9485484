"""Keys of distillation: those that contradict each other, and those left over."""

from dinojax.build.gram import EMA
from dinojax.build.inputs import build_views, predicted_grid
from dinojax.build.loss import TEACHER_NORMS
from dinojax.build.model import FEATURES, backbone_of
from dinojax.config import Config
from dinojax.config.method import HeadConfig
from dinojax.config.stages import DistillationConfig, MatchingConfig
from dinojax.precision import get_precision

PROTOTYPES = "prototypes"
KINDS = ("cosine", "smooth_l1")


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
