"""The reference's YAML as a config file: ``python -m dinojax.import_config x.yaml --gpus=32``.

Takes training configurations of the DINOv3 and DINOv2 repositories, which say how many images each
GPU takes and not how many GPUs there are. Prints, or writes to ``--out``, a file for
``dinojax.train`` that states what differs from the defaults here, and lists every key of the YAML
that it does not have, and why.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from dinojax import command
from dinojax.config import Config, parse_config, to_dict
from dinojax.reference_yaml.convert import Converted, convert
from dinojax.reference_yaml.values import read_values
from dinojax.runtime.atomic import replace_text
from dinojax.runtime.contract import flatten
from dinojax.runtime.exits import STOPS, leave


def import_config(path: str, gpus: int, system: str | None = None) -> tuple[str, Converted]:
    """The text of a config file for `path`, and what it is made of.

    Args:
        gpus: on which the reference would run.
        system: "dinov3" or "dinov2"; None: the one that the file's keys are of.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no configuration of either, or no number of GPUs.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if gpus < 1:
        raise ValueError(f"--gpus={gpus} must be at least 1")
    try:
        converted = convert(read_values(Path(path).read_text(encoding="utf-8"), system), gpus)
    except (ValueError, TypeError, OverflowError) as error:  # of what is no number, too
        raise ValueError(f"{path}: {error}") from error
    text = config_file(converted, Path(path).name, gpus)
    scope: dict[str, Any] = {}
    exec(compile(text, path, "exec"), scope)  # written above, of literals alone
    assert parse_config(scope["get_config"]()) == converted.config
    return text, converted


def config_file(converted: Converted, name: str, gpus: int) -> str:
    """Python that makes the configuration from the defaults."""
    lines = [
        f'"""Converted from {_word(name)} of {converted.system}, which runs on {gpus} GPUs there.',
        "",
    ]
    if converted.left_out:
        lines += ["Not honoured:", *(_line(*one) for one in converted.left_out), ""]
    lines[-1:] = [] if lines[-1] == "" else lines[-1:]
    lines += ['"""', "", "from dinojax.config import default_config", "", "", "def get_config():"]
    lines += ["    config = default_config()"]
    before, now = flatten(to_dict(Config())), flatten(to_dict(converted.config))
    lines += [f"    config.{key} = {now[key]!r}" for key in now if now[key] != before[key]]
    return "\n".join([*lines, "    return config", ""])


def _line(key: str, value: Any, why: str) -> str:
    return _word(f"    {key}: {value!r:.60}: {why}")


def _word(text: str) -> str:
    """What may stand in a docstring."""
    return text.replace("\\", "/").replace('"', "'")


def main(argv: Sequence[str]) -> None:
    given = flags.FLAGS
    if len(argv) != 2:
        command.refuse(f"one FILE is converted, not {list(argv[1:])}; options start with --")
    try:
        text, converted = import_config(argv[1], given.gpus, given.system)
        if given.out is not None:
            Path(given.out).parent.mkdir(parents=True, exist_ok=True)
            replace_text(Path(given.out), text)
    except STOPS as error:
        print(f"dinojax.import_config: {error}", file=sys.stderr)
        leave(error)
    left = [one._asdict() for one in converted.left_out]
    if given.json:
        changed = {} if given.out is None else {"file": given.out}
        print(json.dumps({"system": converted.system, "left_out": left, **changed}, default=str))
        return
    if given.out is None:
        print(text, end="")
        return
    print(f"{given.out}: {converted.system}, {len(left)} keys not honoured")
    for one in converted.left_out:
        print(_line(*one))


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "The config file to write; none: print it.")
    flags.DEFINE_integer("gpus", None, "GPUs that the reference runs this file on.")
    flags.DEFINE_enum("system", None, ["dinov3", "dinov2"], "Whose file; none: by its keys.")
    flags.DEFINE_bool("json", False, "Print what is not honoured as one JSON object.")
    flags.mark_flags_as_required(["gpus"])
    command.run(main)
