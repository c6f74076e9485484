"""Several students in one configuration, taken apart into one configuration each."""

import dataclasses
import re
from typing import Any

from dinojax.backbones.run import Trained
from dinojax.config import Config, from_dict, to_dict
from dinojax.runtime.earlier import STUDENT

SECTIONS = ("student.", "dino.", "ibot.", "optim.")
"""What students may differ in; crops and batches they have in common."""
COMMON = ("student.in_chans", "ibot.mask_")
"""And of those sections what belongs to crops and masks, which are made once for all."""


def student_configs(config: Config) -> dict[str, Config]:
    """The configuration of each student by its name; none where there is only the run's own.

    Raises:
        ValueError: a name that is no name or comes twice, or a key that students have in common.
    """
    found: dict[str, Config] = {}
    alone = dataclasses.replace(
        config, distillation=dataclasses.replace(config.distillation, students=())
    )
    for name, overrides in config.distillation.students:
        if not re.fullmatch(r"\w[\w-]*", name) or name in found:
            raise ValueError(
                f"distillation.students names {name!r}, which must be a word that comes once; use "
                "the name of its architecture"
            )
        values = to_dict(alone)
        for key, value in overrides:
            if not key.startswith(SECTIONS) or key.startswith(COMMON):
                raise ValueError(
                    f"distillation.students: {name} has a key {key!r} of its own, but students may "
                    f"differ only in {', '.join(SECTIONS)} and have {', '.join(COMMON)}* in "
                    "common; set it for the run"
                )
            _set(values, key, value)
        found[name] = from_dict(values)
    return found


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.get(parent, {})
    if last not in values:
        raise ValueError(f"distillation.students has an unknown key {key}")
    values[last] = value


def config_of(trained: Trained) -> Config:
    """The configuration of the run that a backbone is of, or of the one student that is meant."""
    return one_student(from_dict(trained.contract["config"]), trained.student, trained.name)


def one_student(config: Config, student: str | None, where: str) -> Config:
    """The configuration of a run's student, or of the run that has only its own.

    Args:
        where: it is from, for the message.

    Raises:
        ValueError: no student of this name, or none named where there are several.
    """
    students = student_configs(config)
    if student is None and not students:
        return config
    if not students:
        raise ValueError(f"checkpoint={where!r} is of a run with one student, without name")
    if student not in students:
        path = where.partition(STUDENT)[0]
        working = ", ".join(f"{path}{STUDENT}{name}" for name in students)
        raise ValueError(f"checkpoint={where!r} is of a run with several students; use {working}")
    return students[student]
