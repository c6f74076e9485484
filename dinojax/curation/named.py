"""Named sources, as the options of stages list them."""

import re
from collections.abc import Sequence

NAME = re.compile(r"\w[\w.-]*")

Named = tuple[tuple[str, str], ...]
"""(name, source) pairs, such as ("pool", "folder:/data/images"); sources as data.source."""


def check_names(pairs: Sequence[tuple[str, str]], key: str) -> None:
    """Check that there are some, and that they can be told apart, also as folders.

    Args:
        key: of the pairs in the configuration, for messages.

    Raises:
        ValueError: no pair, or a name that is bad or comes twice.
    """
    if not pairs:
        raise ValueError(f'{key} is empty; give some, such as (("pool", "folder:/data/images"),)')
    names = [name for name, _ in pairs]
    for place, name in enumerate(names):
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{key}: {name!r} is no name of a folder; use letters, digits, - and _"
            )
        if name in names[:place]:
            raise ValueError(f"{key} names {name!r} twice; give each source a name of its own")
