"""Keys of what a stage starts from: those that contradict each other, and those left over."""

from dataclasses import fields

from dinojax.config import Config
from dinojax.config.stages import InitConfig
from dinojax.export.weights import is_weights


def check_init(config: InitConfig) -> None:
    """Raises ValueError: a key that would be ignored."""
    if config.resume and config.from_ is None:
        raise ValueError(
            "init.resume=True has no run to go on with; set init.from to its workdir, or "
            "init.resume to False"
        )
    if config.resume and is_weights(config.from_ or ""):
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
