"""Learning rate, decay, momentum, temperature and loss weights over the run, in steps."""

from typing import Any

from dinojax.reference_yaml.values import Values
from dinojax.schedules import scale_by_batch

_SECTIONS = {
    "lr": "optim.lr",
    "weight_decay": "optim.weight_decay",
    "momentum": "optim.momentum",
    "teacher_temp": "optim.teacher_temp",
}
SECTION = "schedules"
"""With it a file of DINOv3 has schedules of the newer kind, and no other counts."""


def schedules(values: Values, epoch: int, gpus: int) -> dict[str, Any]:
    """Keys of all schedules, of either family.

    Args:
        epoch: its steps.

    Raises:
        ValueError: a section that lacks something.
    """
    if values.system == "dinov3" and values.has_section(SECTION):
        found = _sections(values, epoch)
    else:
        found = _older(values, epoch)
    if values.system == "dinov3":
        found |= _loss_weights(values, epoch)
    rule = values["optim.scaling_rule"]
    if values.system == "dinov2" and rule == "sqrt_wrt_1024":
        rule = "sqrt_wrt_1024_dinov2"
    found["optim.scaling_rule"] = rule
    return found | _rounded(values, found, gpus)


def _sections(values: Values, epoch: int) -> dict[str, Any]:
    found = {}
    for theirs, ours in _SECTIONS.items():
        found |= _section(values, f"{SECTION}.{theirs}", ours, epoch)
    frozen = values.get(f"{SECTION}.lr.freeze_last_layer_epochs", 0)
    return found | {"optim.freeze_last_layer_steps": round(frozen * epoch)}


def _section(values: Values, theirs: str, ours: str, epoch: int) -> dict[str, Any]:
    """One of start, peak, end and lengths in epochs."""
    numbers = {}
    for name in ("start", "peak", "end", "warmup_epochs"):
        value = values.get(f"{theirs}.{name}", 0 if name == "warmup_epochs" else None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{theirs}.{name}={value!r} is no number; the reference needs one")
        numbers[name] = value
    cosine = values.get(f"{theirs}.cosine_epochs")
    return {
        f"{ours}.family": "dinov3",
        **{f"{ours}.{name}": float(numbers[name]) for name in ("start", "peak", "end")},
        f"{ours}.warmup_steps": round(numbers["warmup_epochs"] * epoch),
        f"{ours}.cosine_steps": None if cosine is None else round(cosine * epoch),
    }


def _older(values: Values, epoch: int) -> dict[str, Any]:
    """Of DINOv2, and of DINOv3 without `SECTION`."""

    def steps(key: str) -> int:
        return round(values.number(key) * epoch)

    rate = "optim.base_lr" if values.system == "dinov2" else "optim.lr"
    found: dict[str, Any] = {
        "optim.lr.start": 0.0,
        "optim.lr.peak": values.number(rate),
        "optim.lr.end": values.number("optim.min_lr"),
        "optim.lr.warmup_steps": steps("optim.warmup_epochs"),
        "optim.weight_decay.peak": values.number("optim.weight_decay"),
        "optim.weight_decay.end": values.number("optim.weight_decay_end"),
        "optim.momentum.peak": values.number("teacher.momentum_teacher"),
        "optim.momentum.end": values.number("teacher.final_momentum_teacher"),
        "optim.teacher_temp.start": values.number("teacher.warmup_teacher_temp"),
        "optim.teacher_temp.peak": values.number("teacher.teacher_temp"),
        "optim.teacher_temp.end": values.number("teacher.teacher_temp"),
        "optim.teacher_temp.warmup_steps": steps("teacher.warmup_teacher_temp_epochs"),
        "optim.freeze_last_layer_steps": steps("optim.freeze_last_layer_epochs"),
    }
    extra = values.number("optim.schedule_trunc_extra") if values.system == "dinov3" else 0
    for name in ("lr", "weight_decay", "momentum"):
        found[f"optim.{name}.trunc_extra"] = float(extra)
    return found


def _loss_weights(values: Values, epoch: int) -> dict[str, Any]:
    local, gram = "dino.local_loss_weight_schedule", "gram.loss_weight_schedule"
    found = {}
    if values["dino.reweight_dino_local_loss"]:
        found |= _section(values, local, "dino.local_loss_weight", epoch)
    else:
        values.used |= {key for key in values.given if key.startswith(f"{local}.")}
    weight = values["gram.loss_weight"]
    if values["gram.use_loss"] and values.has_section(gram):
        found |= _section(values, gram, "gram.loss_weight", epoch)
    elif values["gram.use_loss"]:
        found |= {f"gram.loss_weight.{name}": float(weight) for name in ("start", "peak", "end")}
    return found


def _rounded(values: Values, found: dict[str, Any], gpus: int) -> dict[str, Any]:
    """In distillation of several students the rate is scaled to a batch that is rounded down."""
    if values.system == "dinov2" or not values.get("multidistillation.enabled"):
        return {}
    values.used.discard("multidistillation.enabled")
    batch = values.get("multidistillation.global_batch_size") or 0
    scaled = {
        f"optim.lr.{name}": scale_by_batch(
            found[f"optim.lr.{name}"], found["optim.scaling_rule"], batch // gpus * gpus
        )
        for name in ("peak", "end")
    }
    return {**scaled, "optim.scaling_rule": "none"}
