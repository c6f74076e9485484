"""How a file declares a pipeline: ``get_config`` returns ``pipeline(train(...), evaluate(...))``.

Each stage is ``config.stages.NAME`` afterwards, so that any key of it can be overridden:
``--config.stages.pretrain.config.train.steps=1000``.
"""

import difflib
import re
import runpy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections

from dinojax.config import to_dict
from dinojax.config.parse import parse, to_config_dict
from dinojax.stages.given import Given
from dinojax.stages.kinds import KINDS
from dinojax.stages.references import PREFIX, references

Declared = tuple[str, ml_collections.ConfigDict]


@dataclass(frozen=True)
class Stage:
    """A stage of a pipeline."""

    name: str
    kind: str
    given: Given

    @property
    def parents(self) -> list[str]:
        """The stages that it names."""
        named = (reference.stage for _, reference in references(to_dict(self.given)))
        return list(dict.fromkeys(named))


def pipeline(*stages: Declared) -> ml_collections.ConfigDict:
    """A pipeline of these stages, which run in this order as far as their parents allow.

    Raises:
        ValueError: two stages of one name.
    """
    names = [name for name, _ in stages]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"stage {twice[0]} is declared twice; give each a name of its own")
    # A ConfigDict sorts its keys.
    return ml_collections.ConfigDict({"order": tuple(names), "stages": dict(stages)}).lock()


def train(name: str, config: ml_collections.ConfigDict, after: Sequence[str] = ()) -> Declared:
    """A run of `dinojax.train`, on a configuration as its recipes have it.

    Args:
        after: names of stages that it waits for, beside those that the configuration names.
    """
    waits = tuple(PREFIX + other for other in after)
    return name, ml_collections.ConfigDict({"kind": "train", "config": config, "after": waits})


def snapshots(name: str, **given: Any) -> Declared:
    """`dinojax.show snapshots` with these flags: the ranking that ``gram.teacher=auto`` reads."""
    return _other(name, "snapshots", given)


def evaluate(name: str, **given: Any) -> Declared:
    """`dinojax.evaluate` with these flags."""
    return _other(name, "evaluate", given)


def export(name: str, **given: Any) -> Declared:
    """`dinojax.export_torch` with these flags; the pipeline chooses the file."""
    return _other(name, "export", given)


def _other(name: str, kind: str, given: dict[str, Any]) -> Declared:
    stage = to_config_dict(_parse(name, kind, given))
    stage.kind = kind
    return name, stage


def recipe(file: str | Path, *variant: str) -> Any:
    """The configuration of a recipe file, to be used or changed for a stage."""
    return runpy.run_path(str(file))["get_config"](*variant)


def parse_pipeline(config: ml_collections.ConfigDict) -> list[Stage]:
    """The stages in an order in which parents come first.

    Raises:
        ValueError: an unknown kind, key or parent, a value of the wrong type, or stages that wait
            for each other; names the stage.
    """
    values = config.to_dict()
    unknown = values.keys() - {"order", "stages"}
    if unknown or not values.get("stages"):
        raise ValueError(
            f"a pipeline has stages and nothing else, not {sorted(unknown)}; return "
            "dinojax.stages.declare.pipeline(...) from get_config"
        )
    names = [name for name in values.get("order", ()) if name in values["stages"]]
    names += [name for name in values["stages"] if name not in names]
    stages = {name: _stage(name, values["stages"][name]) for name in names}
    return _parents_first(stages)


def _stage(name: str, values: Any) -> Stage:
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise ValueError(f"stage {name!r} must be named by a word, which its folder gets")
    if not isinstance(values, dict):
        raise ValueError(f"stage {name}: {values!r} is no stage; use train(), evaluate(), export()")
    values = dict(values)
    kind = values.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"stage {name}: kind={kind!r} is unknown; use one of {', '.join(KINDS)}")
    return Stage(name, kind, _parse(name, kind, values))


def _parse(name: str, kind: str, values: dict[str, Any]) -> Given:
    try:
        return parse(KINDS[kind], values)
    except ValueError as error:
        raise ValueError(f"stage {name}: {error}") from error


def _parents_first(stages: dict[str, Stage]) -> list[Stage]:
    parents: dict[str, list[str]] = {}
    for name, stage in stages.items():
        try:
            parents[name] = stage.parents
        except ValueError as error:
            raise ValueError(f"stage {name}: {error}") from error
        for parent in parents[name]:
            if parent not in stages:
                near = difflib.get_close_matches(parent, stages, n=1)
                hint = f"did you mean stage:{near[0]}?" if near else f"there are {list(stages)}"
                raise ValueError(f"stage {name} takes stage:{parent}, which does not exist; {hint}")
    placed: list[str] = []
    while len(placed) < len(stages):
        left = [name for name in stages if name not in placed]
        ready = [name for name in left if set(parents[name]) <= set(placed)]
        if not ready:
            raise ValueError(
                f"stages wait for each other: {' -> '.join(_cycle(left[0], parents, placed))}; "
                "let one of them begin from something else"
            )
        placed.append(ready[0])
    return [stages[name] for name in placed]


def _cycle(start: str, parents: dict[str, list[str]], placed: list[str]) -> list[str]:
    """Stages of which each takes something from the next, until one comes again."""
    path = [start]
    while path[-1] not in path[:-1]:
        path.append(next(name for name in parents[path[-1]] if name not in placed))
    return path[path.index(path[-1]) :]
