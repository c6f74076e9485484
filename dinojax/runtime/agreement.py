"""The processes of a run compare notes before they compile: one configuration, code and data.

Different programs would wait for each other for ever, or exchange what does not belong together.
"""

import json
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import jax

import dinojax
from dinojax.runtime.cluster import gather
from dinojax.runtime.contract import ABSENT, HOST_KEYS, SHOWN, flatten, versions

LISTED = 4
"""Processes that a message names one by one."""
VISIBLE_WITHIN_S = 60
"""How long a network file system may hide a new file from other hosts."""


def agree(name: str, facts: dict[str, Any]) -> None:
    """Check that all processes of the run hold the same facts; a barrier.

    Args:
        name: of the check.
        facts: JSON values.

    Raises:
        ValueError: on every process: what differs, and on which.
    """
    text = json.dumps(facts, sort_keys=True)
    if len(set(gather(name, digest(text)))) > 1:
        # Only now everything: it is kilobytes for each of what may be hundreds of processes.
        every = [json.loads(other) for other in gather(f"{name} in full", text)]
        raise ValueError(
            f"the processes of this run disagree: {differences(every)}; start all of them with the "
            "same command and the same code"
        )


def from_first(name: str, make: Callable[[], Any]) -> Any:
    """What `make` returns in the first process, as JSON knows it, in every one; a barrier.

    Args:
        name: of the question.
        make: called by the first alone. What it raises there ends all (`cluster.together`).
    """
    return json.loads(gather(name, json.dumps(make()) if jax.process_index() == 0 else "")[0])


def check_shared(path: Path) -> None:
    """Check that all processes see what the first has just written to a file; a barrier.

    Raises:
        ValueError: on the processes that do not.
    """

    def seen() -> str:
        return digest(path.read_text(encoding="utf-8")) if path.exists() else ABSENT

    written = gather("shared storage", seen())[0]
    await_visible(path, "process 0", lambda: seen() == written)


def await_visible(path: Path, writer: str, visible: Callable[[], bool]) -> None:
    """Wait until what another process has written is visible here, too.

    Raises:
        ValueError: it does not appear.
    """
    deadline = time.monotonic() + VISIBLE_WITHIN_S
    while not visible():
        if time.monotonic() > deadline:
            raise ValueError(
                f"{path} is not here as {writer} has written it; give a folder on storage that all "
                "hosts share"
            )
        time.sleep(1)


def differences(facts: list[dict[str, Any]]) -> str:
    """``train.seed is 0 on process 0 and 1 on processes 1, 2``, for the first few keys."""
    texts = []
    for key in sorted(set().union(*facts)):
        holders: dict[str, list[int]] = {}
        for process, own in enumerate(facts):
            value = json.dumps(own[key]) if key in own else ABSENT
            holders.setdefault(value, []).append(process)
        if len(holders) > 1:
            groups = [f"{value} on {_name(holders[value])}" for value in holders]
            texts.append(f"{key} is {' and '.join(groups)}")
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


def program(config: dict[str, Any]) -> dict[str, Any]:
    """What makes two processes compile and run the same: for `agree`.

    Args:
        config: nested, of JSON values and tuples.
    """
    shared = {key: value for key, value in flatten(config).items() if key not in HOST_KEYS}
    code = {f"version of {name}": version for name, version in versions().items()}
    return shared | code | {"source code": source_digest()}


def source_digest() -> str:
    """Of the package's own Python files: a version number does not see an edit."""
    root = Path(dinojax.__file__).parent
    files = {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in root.rglob("*.py")
    }
    return digest(json.dumps(files, sort_keys=True))


def digest(text: str) -> str:
    """16 hex digits."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _name(processes: list[int]) -> str:
    listed = ", ".join(map(str, processes[:LISTED]))
    more = f" and {len(processes) - LISTED} more" if len(processes) > LISTED else ""
    return f"process{'es' if len(processes) > 1 else ''} {listed}{more}"
