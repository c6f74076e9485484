"""From a pile of images to the data of a training run, stage by stage:

``python -m dinojax.curate cluster --config=configs/curation/scenes.py --workdir=runs/curated``.

A stage leaves Parquet tables and ``report.json`` in ``WORKDIR/STAGE``: ids, never images. Run the
same command again: a finished stage stays, an interrupted one goes on (docs/curation.md). ``page``
shows what the others did. On several hosts the same command runs once on each, for ``embed`` and
``cluster``.
"""

import contextlib
import dataclasses
import difflib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging
from jax.sharding import Mesh
from ml_collections import config_flags

from dinojax import command
from dinojax.config.curation import CurationConfig, parse_config
from dinojax.curation.cluster_stage import cluster_stage
from dinojax.curation.dedup_stage import dedup_stage
from dinojax.curation.embed_stage import embed_stage
from dinojax.curation.mix_stage import mix_stage
from dinojax.curation.retrieve_stage import retrieve_stage
from dinojax.curation.sample_stage import sample_stage
from dinojax.curation_page.page_stage import page_stage
from dinojax.mesh import make_mesh
from dinojax.runtime import cluster
from dinojax.runtime.agreement import agree, program
from dinojax.runtime.exits import STOPS, exit_code, leave
from dinojax.runtime.lock import locked

EMBED = "embed"
"""Sees to its devices by itself."""
STAGES: dict[str, Callable[[CurationConfig, Path], dict[str, Any]]] = {
    EMBED: lambda given, work: embed_stage(given.embed, work / EMBED),
    "dedup": lambda given, work: dedup_stage(given.dedup, given.seed, work / "dedup", given.runner),
    "cluster": lambda given, work: cluster_stage(given.cluster, given.seed, work / "cluster"),
    "sample": lambda given, work: sample_stage(
        given.sample, given.seed, work / "sample", work / "cluster", given.runner
    ),
    "retrieve": lambda given, work: retrieve_stage(
        given.retrieve, given.seed, work / given.retrieve.stage, work / "cluster"
    ),
    "mix": lambda given, work: mix_stage(given.mix, work / "mix"),
    "page": lambda given, work: page_stage(given.page, given.dedup, given.retrieve, work),
}
"""By name, in the order in which they may follow each other."""
DIVIDED = (EMBED, "cluster")
"""Stages that several processes do together."""


def curate(stage: str, config: CurationConfig, workdir: Path) -> dict[str, Any]:
    """Do what is left of a stage, on all devices; its report.

    Of several processes (`jax.distributed.initialize`) all make the same call, with a folder that
    they share.

    Raises:
        ValueError: an unknown stage, options or rows that do not fit, a folder of other inputs,
            another run that writes there, processes that differ, or several for a stage of one.
        FileNotFoundError: rows or the stage before are not there.
    """
    if stage not in STAGES:
        near = difflib.get_close_matches(stage, STAGES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(STAGES)}"
        raise ValueError(f"stage {stage!r} is unknown; {hint}")
    if jax.process_count() > 1 and stage not in DIVIDED:
        raise ValueError(
            f"stage {stage!r} runs in one process and has been started in {jax.process_count()}; "
            "start it once, with --num_processes=1"
        )
    agree("curation", program({"stage": stage, **dataclasses.asdict(config)}))
    mesh = _mesh(config.tensor)
    cluster.connect(mesh)
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(locked(workdir, "dinojax.curate"))
        if stage != EMBED:
            stack.enter_context(jax.set_mesh(mesh))
        return STAGES[stage](config, workdir)


def _mesh(tensor: int) -> Mesh:
    count = jax.device_count()
    if tensor < 1 or count % tensor:
        raise ValueError(f"tensor={tensor} does not divide the {count} devices; use 1")
    return make_mesh(tensor=tensor)


def main(argv: Sequence[str]) -> None:
    if len(argv) != 2:
        command.refuse(f"give one stage, of {', '.join(STAGES)}, not {list(argv[1:])}")
    given = flags.FLAGS
    try:
        cluster.start(given.coordinator, given.num_processes, given.process_id)
        with cluster.together("dinojax.curate", exit_code):
            report = curate(argv[1], parse_config(given.config), Path(given.workdir))
    except STOPS as error:
        print(f"dinojax.curate: {error}", file=sys.stderr)
        leave(error)
    if jax.process_index() == 0:
        shown = {key: value for key, value in report.items() if key not in ("inputs", "outputs")}
        print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", lock_config=True)
    flags.DEFINE_string("workdir", None, "Where the stages live, each in a folder of its name.")
    cluster.define_flags()
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.INFO)
    command.run(main)
