"""All stages: ``python -m dinojax.pipeline --config=configs/pipelines/tiny.py --workdir=runs/x``.

Each stage is a command of its own (`dinojax.train`, `evaluate`, `export_torch`) in a folder of its
own. Run the same command again: what is done stays, what was interrupted goes on, and what depends
on something that has changed is done anew (docs/pipeline.md).
"""

import shlex
import sys
from collections.abc import Sequence

import jax
from absl import flags, logging
from ml_collections import config_flags

from dinojax import command
from dinojax.runtime.exits import STOPS, leave
from dinojax.stages.declare import parse_pipeline
from dinojax.stages.report import scores_table, table
from dinojax.stages.run import StageError, check, run, survey


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        command.refuse(f"unknown arguments {list(argv[1:])}; options start with --")
    given = flags.FLAGS
    try:
        stages = parse_pipeline(given.config)
        check(stages)
        if given.dry_run:
            print(table(survey(stages, given.workdir)))
            return
        report = run(stages, given.workdir, tuple(shlex.split(given.launcher)))
    except StageError as error:
        print(f"dinojax.pipeline: {error}", file=sys.stderr)
        raise SystemExit(error.code) from None
    except STOPS as error:
        logging.debug("stopped", exc_info=True)
        print(f"dinojax.pipeline: {error}", file=sys.stderr)
        leave(error)
    print(scores_table(report))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", lock_config=True)
    flags.DEFINE_string("workdir", None, "Where the stages live, each in a folder of its name.")
    flags.DEFINE_bool("dry_run", False, "Only print what is done, and what would run and why.")
    flags.DEFINE_string(
        "launcher", "", "Command that starts training, as launch/local.sh; default: dinojax.train."
    )
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.INFO)
    jax.config.update("jax_platforms", "cpu")  # the accelerators are for the stages
    command.run(main)
