"""Weights from elsewhere: ``python -m dinojax.import_torch FILE --out=runs/vits16``.

FILE has any layout of `dinojax.export.weights`: official, Hugging Face (also a folder), timm, ours.
What became of every entry is printed, and anything missing or left over is refused unless it is
allowed by name. ``runs/vits16/snapshots/0`` is then a snapshot like those of a run, for
``init.from``, ``gram.teacher``, ``distillation.teacher``, ``dinojax.load`` and ``--checkpoint``.
Without ``--out`` the file is only checked.
"""

import fnmatch
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import jax
from absl import flags

from dinojax import command
from dinojax.backbones.model import Model
from dinojax.backbones.open import open_backbone
from dinojax.backbones.opened import fingerprint_of_params
from dinojax.backbones.probe import feature_checksum
from dinojax.backbones.released import Released, open_released
from dinojax.export.audit import Audit
from dinojax.imported import write_imported
from dinojax.lineage import LICENCE, licence_of
from dinojax.runtime.exits import STOPS, exit_code, leave


def import_torch(
    path: str,
    out: str | None = None,
    *,
    model: str | None = None,
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    allow_pth: bool = False,
) -> tuple[Audit, dict[str, Any]]:
    """Check the file `path` and write it to the workdir `out`; returns the audit and the result.

    The result names the model, what is wrong (``faults``, if anything is, and then nothing is
    written), and the checksums of features of the file and of what was written.

    Args:
        model: as for `dinojax.backbones.released.open_released`.
        missing: official names that the file may lack, or patterns of them; initialised as in
            training.
        unexpected: names that it may have too many, or patterns of them; left out.
        allow_pth: also read files of PyTorch.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, an entry has another shape or dtype than the model's, a pattern
            fits nothing, or `out` is there already.
        RuntimeError: what was written has other features than the file.
    """
    opened = open_released(path, model, missing=missing, unexpected=unexpected, allow_pth=allow_pth)
    incoming = opened.incoming()
    audit = incoming.audit()
    _check_patterns("--allow_missing", missing, audit.missing)
    _check_patterns("--allow_unexpected", unexpected, audit.unexpected)
    result: dict[str, Any] = {"model": opened.arch, "layout": opened.weights.layout}
    try:
        incoming.check(missing, unexpected)
    except ValueError as error:
        return audit, {**result, "faults": f"{path} is no {opened.arch}: {error}"}
    loaded = Model.read(opened)
    result |= {"fingerprint": loaded.fingerprint, "features_before": feature_checksum(loaded)}
    if out is None:
        return audit, result
    origin = _origin(opened, audit, result, model)
    snapshot = write_imported(out, opened, loaded.params, origin)
    del loaded
    written = Model.read(open_backbone(snapshot))
    result |= {"features_after": feature_checksum(written), "snapshot": snapshot}
    if result["features_after"] != result["features_before"]:
        raise RuntimeError(
            f"{snapshot} has other features than {path}: {result}; report this with the file's name"
        )
    assert fingerprint_of_params(written.params) == result["fingerprint"]  # by its digests
    return audit, result


def _origin(
    opened: Released, audit: Audit, result: dict[str, Any], model: str | None
) -> dict[str, Any]:
    """What the workdir keeps of where its weights are from."""
    said = dict(opened.weights.file.metadata)
    return {
        "file": os.path.abspath(opened.path),
        LICENCE: licence_of(opened.path, said, model),
        **result,
        "checksum": audit.checksum,
        "allowed": {"missing": audit.missing, "unexpected": audit.unexpected},
        "metadata": said,
    }


def _check_patterns(flag: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    """A word that allows nothing is a mistake, or was needed for another file."""
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"{flag}={pattern} fits nothing here; it is one of {names or 'none'}")


def main(argv: Sequence[str]) -> None:
    given = flags.FLAGS
    if len(argv) != 2:
        command.refuse(f"one FILE is imported, not {list(argv[1:])}; options start with --")
    try:
        audit, result = import_torch(
            argv[1],
            given.out,
            model=given.model,
            missing=given.allow_missing,
            unexpected=given.allow_unexpected,
            allow_pth=given.allow_pth,
        )
    except STOPS as error:
        print(f"dinojax.import_torch: {error}", file=sys.stderr)
        leave(error)
    if given.json:
        print(json.dumps({**asdict(audit), **result}))
    else:
        print(audit.summary())
        for name, value in result.items():
            print(f"{name:>15}  {value}")
    if "faults" in result:
        sys.exit(exit_code(ValueError()))


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "The workdir to write, OUT/snapshots/0; none: only check.")
    flags.DEFINE_string("model", None, "A preset or released model, as vits16; none: sniffed.")
    flags.DEFINE_list("allow_missing", [], "Official names, or patterns, that FILE may lack.")
    flags.DEFINE_list("allow_unexpected", [], "Names, or patterns, that FILE may have too many.")
    flags.DEFINE_bool("allow_pth", False, "Read files of PyTorch, by weights_only=True.")
    flags.DEFINE_bool("json", False, "Print one JSON object.")
    jax.config.update("jax_platforms", "cpu")  # the weights only pass through
    command.run(main)
