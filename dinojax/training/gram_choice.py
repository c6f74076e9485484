"""``gram.teacher="auto"``: the snapshot that ``python -m dinojax.show snapshots`` recommends."""

import dataclasses
from pathlib import Path

from absl import logging

from dinojax.build.gram import AUTO
from dinojax.config import Config
from dinojax.config.gram_validation import check_auto_teacher
from dinojax.evaluation.snapshot_scores import read_table
from dinojax.runtime.contract import FILE as CONTRACT_FILE
from dinojax.runtime.contract import read_contract
from dinojax.runtime.stored_state import fingerprint
from dinojax.snapshots import snapshot_paths
from dinojax.training.safety import SNAPSHOTS


def choose_gram_teacher(config: Config, workdir: str) -> Config:
    """The same configuration with the path of a snapshot in place of "auto".

    The first start of a workdir chooses, by the scores there are; the path is then in its
    ``config.json``, and later starts take it from there, whatever has been scored since. Nothing is
    scored here: all processes of a run only read the same small file.

    Raises:
        ValueError: no run to choose from, or a snapshot of it without scores.
        FileNotFoundError: that run has no snapshots.
        dinojax.runtime.errors.CheckpointError: one of them is damaged.
    """
    if not config.gram.use_loss or config.gram.teacher != AUTO:
        return config
    check_auto_teacher(config)
    earlier, last_step = _earlier_run(config)
    path = _chosen_before(workdir, earlier) or _recommended(earlier, last_step)
    logging.info("gram.teacher='auto' is %s", path)
    return dataclasses.replace(config, gram=dataclasses.replace(config.gram, teacher=str(path)))


def _earlier_run(config: Config) -> tuple[Path, int | None]:
    """The workdir that init.from names, and the step of the checkpoint if it names one."""
    given = Path(config.init.from_ or "")
    return (given.parent.parent, int(given.name)) if given.name.isdigit() else (given, None)


def _chosen_before(workdir: str, earlier: Path) -> Path | None:
    if not (Path(workdir) / CONTRACT_FILE).exists():
        return None
    recorded = Path(read_contract(workdir)["config"]["gram"]["teacher"] or "")
    return recorded if recorded.parent == earlier / SNAPSHOTS else None


def _recommended(earlier: Path, last_step: int | None) -> Path:
    try:
        paths = snapshot_paths(earlier)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"gram.teacher='auto' has nothing to choose: {error}") from None
    paths = {k: path for k, path in paths.items() if last_step is None or k <= last_step}
    if not paths:
        raise FileNotFoundError(
            f"gram.teacher='auto' has nothing to choose: {earlier} has no snapshot up to step "
            f"{last_step}, which init.from names; set gram.teacher to a checkpoint"
        )
    table = read_table(earlier)
    unknown = [
        step
        for step, path in paths.items()
        if table is None or table.of(step, fingerprint(path)) is None
    ]
    if table is None or unknown:
        raise ValueError(
            f"gram.teacher='auto' needs the scores of all snapshots in {earlier}, and "
            f"{len(unknown)} of {len(paths)} have none, as that of step {unknown[0]}; run this "
            f"first, on one machine: python -m dinojax.show snapshots --workdir={earlier}"
        )
    return paths[table.ranked(last_step)[0].step]
