"""The folder of a stage: whose it is, and when it is done.

``inputs.json`` comes first and says what the outcome depends on; a folder meets no other inputs.
``report.json`` comes last, with hashes of the tables: a folder without it is unfinished, and the
same command goes on there. ``.hashed.json`` says of which sizes and times the tables were when they
were hashed: a table that has these still is not read for it again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinojax.runtime.atomic import drop_drafts, replace_text
from dinojax.runtime.contract import changes
from dinojax.runtime.fingerprints import hash_file, hash_text

INPUTS, REPORT = "inputs.json", "report.json"
HASHED = ".hashed.json"
SELECTION = "selection.parquet"
"""Ids and multiplicities: what `sample` and `retrieve` leave."""


def claim(folder: Path, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Make the folder that of these inputs; the report, if all has been done before.

    Drafts that killed processes have left go.

    Raises:
        ValueError: it is that of others, or what it holds has changed.
    """
    before, now = read_inputs(folder), json.loads(json.dumps(inputs))
    if before is None:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / INPUTS, json.dumps(now, indent=1) + "\n")
    else:
        check_same(folder, before, now)
    drop_drafts(folder)
    return read_report(folder) if (folder / REPORT).exists() else None


def read_inputs(folder: Path) -> dict[str, Any] | None:
    """What the folder has been claimed for; None: nothing yet. Hidden files do not count: a killed
    process may leave a draft of the first.

    Raises:
        ValueError: it is no stage's.
    """
    if (folder / INPUTS).exists():
        return json.loads((folder / INPUTS).read_text(encoding="utf-8"))
    if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise ValueError(f"{folder} holds other files and no {INPUTS}; give another --workdir")
    return None


def check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise a ValueError if the inputs of a folder differ."""
    different = changes(dict(before), dict(now))
    if different:
        raise ValueError(
            f"{folder} is of other inputs: {'; '.join(different)}; give another --workdir, or "
            "delete the folder to do it anew"
        )


def finish(
    folder: Path,
    found: Mapping[str, Any],
    tables: Sequence[Path],
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write and return the report.

    Args:
        found: counts, balance and seconds: JSON values.
        tables: that the stage leaves, in the folder or below.
        inputs: what the outcome depends on; None: what the folder was claimed for.
    """
    names = [path.relative_to(folder).as_posix() for path in tables]
    before, stats = _hashed(folder), {name: _stat(folder / name) for name in names}
    outputs = {name: _hash(folder, name, before) for name in names}
    hashed = {name: [*stats[name], digest] for name, digest in outputs.items()}
    replace_text(folder / HASHED, json.dumps(hashed) + "\n")
    if inputs is None:
        inputs = read_inputs(folder)
    key = hash_text(json.dumps(outputs, sort_keys=True))
    report = {"fingerprint": key, "inputs": inputs, **found, "outputs": outputs}
    replace_text(folder / REPORT, json.dumps(report, indent=1) + "\n")
    return json.loads(json.dumps(report))


def read_report(folder: Path, *, some_gone: bool = False) -> dict[str, Any]:
    """Of a finished stage whose tables are as it left them, or gone if that is allowed.

    Raises:
        FileNotFoundError: it is not finished, or a table is missing.
        ValueError: a table is another one.
    """
    path = folder / REPORT
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} has no {REPORT}; run python -m dinojax.curate {folder.name} first"
        )
    report, hashed = json.loads(path.read_text(encoding="utf-8")), _hashed(folder)
    for name, digest in report["outputs"].items():
        if not (folder / name).is_file():
            if some_gone:
                continue
            raise FileNotFoundError(f"{folder / name} is missing; delete {folder} and do it anew")
        if _hash(folder, name, hashed) != digest:
            raise ValueError(
                f"{folder / name} is not what {REPORT} says; delete {folder} and do it anew"
            )
    return report


def _hashed(folder: Path) -> dict[str, list[Any]]:
    path = folder / HASHED
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _hash(folder: Path, name: str, hashed: Mapping[str, list[Any]]) -> str:
    path = folder / name
    *stat, digest = hashed.get(name, [None])
    return digest if stat == _stat(path) else hash_file(path)


def _stat(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]
