"""How every command begins: its flags are read, and what is wrong with them is one sentence."""

import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from dinojax.config.parse import quote_keywords
from dinojax.runtime.exits import EXIT_CODES

CODE = EXIT_CODES[ValueError]
CHATTER = ("orbax", "xla_bridge")
"""Modules that tell at INFO what no user can act on: each file of a checkpoint, each backend that
is not there."""


def run(main: Callable[[Sequence[str]], Any]) -> NoReturn:
    """`absl.app.run` of a command of this package.

    Flags, keys of ``--config`` and files of it that are not there end it with the code of what is
    refused (`dinojax.runtime.exits`). What fails inside a configuration file keeps its traceback.
    """
    logging.get_absl_handler().addFilter(
        lambda record: (
            record.levelname != "INFO" or not any(name in record.pathname for name in CHATTER)
        )
    )
    sys.argv[:] = quote_keywords(sys.argv)  # ml_collections looks there for overrides
    app.run(main, flags_parser=parse)
    raise AssertionError("absl's run ends the process")


def refuse(text: str) -> NoReturn:
    """End the process: the command was called wrongly."""
    print(f"{_name()}: {text}", file=sys.stderr)
    sys.exit(CODE)


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """What is left of `argv` after its flags, which are then in `values`."""
    try:
        rest = values(argv)
        if "config" in values and values["config"].value is not None:
            values["config"].value.keys()  # which is when ml_collections says that it has no file
        return rest
    except (flags.Error, OSError) as error:
        refuse(_last_line(error))
    except (AttributeError, KeyError) as error:
        if any(frame.name == "get_config" for frame in traceback.extract_tb(error.__traceback__)):
            raise
        refuse(_unknown_key(argv, error))


def _unknown_key(argv: Sequence[str], error: BaseException) -> str:
    """From the words of ml_collections: ``'batchsize'`` and, in a second line, what is meant."""
    inner: Any = error
    while isinstance(inner, BaseException):
        inner = inner.args[0] if inner.args else type(inner).__name__
    key, *hint = str(inner).splitlines()
    named = re.compile(rf"--config\b[^=]*\b{re.escape(key.strip(chr(39)))}\b")
    given = next((argument for argument in argv if named.match(argument)), "--config")
    return " ".join([f"{given}: there is no such key.", *hint])


def _last_line(error: BaseException) -> str:
    """Where errors come with the tracebacks of others, what those say in the end."""
    return [line for line in str(error).splitlines() if line.strip()][-1].strip()


def _name() -> str:
    return f"dinojax.{Path(sys.argv[0]).stem}"
