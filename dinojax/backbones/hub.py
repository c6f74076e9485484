"""Released weights on the Hugging Face hub, fetched by its own client where there is a network."""

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from dinojax.backbones.names import RELEASES
from dinojax.export.sharded_file import INDEX, WEIGHT_MAP
from dinojax.export.weights import FOLDER_FILE as FILE

PREFIX = "hf-hub:"
"""Before a hub id that no name here stands for."""
_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}


def _hub_id(release: str) -> str:
    system, _, rest = release.partition("_")
    if system == "dinov2":
        registers = "with-registers-" if rest.endswith("_reg") else ""
        return f"facebook/dinov2-{registers}{_SIZES[rest[3]]}"
    arch = rest.removesuffix("_sat493m")
    data = "lvd1689m" if arch == rest else "sat493m"
    return f"facebook/dinov3-{arch.replace('_', '-')}-pretrain-{data}"


HUB = {release: _hub_id(release) for release in RELEASES}
"""Hub ids of the released models, by their names here."""


def is_hub_id(given: str) -> bool:
    """Whether it reads like one: of a release, or with `PREFIX`. A run or file comes first."""
    return given.startswith(PREFIX) or re.fullmatch(r"facebook/dinov[23][\w.-]*", given) is not None


def release_of(hub_id: str) -> str | None:
    """The name of the released model under this id."""
    plain = hub_id.removeprefix(PREFIX)
    return next((release for release, known in HUB.items() if known == plain), None)


def fetch(hub_id: str) -> str:
    """The path of the weights on this machine, downloaded unless they are there already.

    Of a large model, which is in several files, that of their index.

    Raises:
        ValueError: the client is not installed, or cannot fetch them; says what to do.
    """
    plain = hub_id.removeprefix(PREFIX)
    by_hand = f"download {FILE} of https://huggingface.co/{plain} elsewhere and give weights=PATH"
    try:
        hub = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{plain} is on the Hugging Face hub, and huggingface_hub is not installed; "
            f"pip install 'dinojax[hub]', or {by_hand}"
        ) from error
    try:
        return _download(lambda name: hub.hf_hub_download(plain, name))
    except Exception as error:  # its errors, and those of whatever carries them, are many
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{plain} cannot be fetched from the Hugging Face hub ({type(error).__name__}: "
            f"{reason}); without a network or an accepted licence, {by_hand}"
        ) from error


def _download(get: Callable[[str], str]) -> str:
    try:
        return get(FILE)
    except Exception as error:
        if not any(kind.__name__ == "EntryNotFoundError" for kind in type(error).__mro__):
            raise
    index = get(INDEX)
    for name in sorted({*json.loads(Path(index).read_text(encoding="utf-8"))[WEIGHT_MAP].values()}):
        get(name)
    return index
