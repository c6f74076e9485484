"""A sweep file as runs: each override checked against the config, each run with a name for life.

A sweep file has ``CONFIG``, the recipe as `--config` takes it, and ``get_sweep()``, which yields
the overrides of one run after the other as ``{dotted key: value}``.
"""

import difflib
import hashlib
import re
import runpy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags
from jobset import train_line
from ml_collections import config_flags

from dinojax.config import Config, parse_config, to_dict
from dinojax.config.parse import quote_keywords
from dinojax.config.validation import validate
from dinojax.runtime.contract import config_hash, flatten, read_contract
from dinojax.runtime.summary import FILE as SUMMARY_FILE

MAX_NAME = 120
"""Characters: file systems allow 255 bytes."""


@dataclass(frozen=True)
class Run:
    """One run of a sweep."""

    name: str
    config: str
    """As for `--config`."""
    workdir: str
    overrides: tuple[str, ...]
    """As given to `dinojax.train`: ``--config.key=value``."""
    binding: str
    """`config_hash` of its configuration."""

    @property
    def arguments(self) -> list[str]:
        """Those of the scripts in ``launch/``."""
        return [self.config, self.workdir, *self.overrides]

    @property
    def command(self) -> list[str]:
        return train_line(self.config, self.workdir, list(self.overrides))

    def is_finished(self) -> bool:
        """Whether its workdir has a summary.

        Raises:
            ValueError: the workdir belongs to another configuration, finished or not.
        """
        if not (Path(self.workdir) / "config.json").exists():
            return False
        if read_contract(self.workdir)["config_hash"] != self.binding:
            raise ValueError(
                f"workdir {self.workdir} holds a run of another configuration: the recipe or the "
                "defaults have changed since; use another --workdir for this sweep"
            )
        return (Path(self.workdir) / SUMMARY_FILE).exists()


def expand(sweep: str, workdir: str) -> list[Run]:
    """The runs of a sweep file, each in a directory of its name below `workdir`.

    Raises:
        ValueError: an unknown key (with the nearest known one), a value that its key does not take,
            an impossible configuration, two equal runs, or no run at all.
        FileNotFoundError: no such sweep or config.
    """
    module = runpy.run_path(sweep)
    missing = {"CONFIG", "get_sweep"} - module.keys()
    if missing:
        raise ValueError(
            f"{sweep} has no {' and no '.join(sorted(missing))}; it needs both, as "
            "configs/sweeps/quickstart_lr.py has"
        )
    recipe = module["CONFIG"]
    known = flatten(to_dict(load(recipe)))
    runs: dict[str, Run] = {}
    for overrides in module["get_sweep"]():
        _check_keys(recipe, known, overrides)
        run = _make_run(recipe, workdir, overrides)
        if run.name in runs:
            raise ValueError(f"{sweep} yields {overrides} twice; yield each run once")
        runs[run.name] = run
    if not runs:
        raise ValueError(f"get_sweep of {sweep} yields nothing; yield {{}} for the recipe as it is")
    return list(runs.values())


def run_name(overrides: dict[str, Any]) -> str:
    """Says what differs from the recipe; whatever else is in the sweep, a run keeps its name.

    What a file name should not hold becomes a dash; then, or if it is too long, a hash follows.
    """
    full = ",".join(f"{key}={_text(value)}" for key, value in sorted(overrides.items()))
    name = re.sub(r"[^\w.,=+-]+", "-", full, flags=re.ASCII)[:MAX_NAME] or "recipe"
    if overrides and name != full:
        name += "-" + hashlib.blake2b(full.encode(), digest_size=4).hexdigest()
    return name


def _check_keys(recipe: str, known: dict[str, Any], overrides: dict[str, Any]) -> None:
    for key, value in overrides.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "use a dotted key such as train.seed"
            raise ValueError(f"{recipe} has no key {key!r}; {hint}")
        if re.search(r"[\t\n]", _text(value)):
            raise ValueError(f"{key}={value!r} has a tab or line break; use a value without")


def _make_run(recipe: str, workdir: str, overrides: dict[str, Any]) -> Run:
    arguments = tuple(f"--config.{key}={_text(value)}" for key, value in overrides.items())
    try:
        config = load(recipe, arguments)
        validate(config, batch_shards=1)  # the run itself knows its devices
    except (ValueError, flags.Error) as error:
        raise ValueError(f"{recipe} with {overrides}: {error}") from error
    name = run_name(overrides)
    return Run(name, recipe, f"{workdir}/{name}", arguments, config_hash(to_dict(config)))


def load(recipe: str, overrides: Sequence[str] = ()) -> Config:
    """What `dinojax.train` makes of these flags."""
    argv = quote_keywords(["sweep", f"--config={recipe}", *overrides])
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", lock_config=True, flag_values=values, sys_argv=argv
    )
    values(argv)
    return parse_config(holder.value)


def _text(value: Any) -> str:
    """A value as a flag takes it."""
    return value if isinstance(value, str) else repr(value)
