"""Bars that say how much of a stage is done, on the terminal of the first process.

Stages open them. What is computed below yields its steps, or tells a function that it is given.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax
from absl import logging
from tqdm import tqdm

Step = TypeVar("Step")


@contextlib.contextmanager
def progress_bar(title: str, total: int, unit: str, done: int = 0) -> Iterator[tqdm]:
    """A bar for ``update``; ``disable`` is true where nothing is shown: in the other processes, and
    where stderr is no terminal.

    Args:
        done: by an earlier call; the rate and the time that is left do not count it.
    """
    hidden = True if jax.process_index() else None  # None: unless stderr is a terminal
    # A bar within another does not stay.
    options = {"unit": f" {unit}", "dynamic_ncols": True, "leave": None, "disable": hidden}
    with tqdm(desc=title, total=total, initial=done, **options) as bar:

        def clear(record: object) -> bool:
            bar.clear()
            return True

        # A line of the log begins where the bar does, which comes back with the next update.
        log = logging.get_absl_handler()
        log.addFilter(clear)
        try:
            yield bar
        finally:
            log.removeFilter(clear)


def tracked(
    steps: Iterable[Step], bar: tqdm, size: Callable[[Step], int] = lambda _: 1
) -> Iterator[Step]:
    """The `steps`; once one is dealt with, the bar advances by its `size`."""
    for step in steps:
        yield step
        bar.update(size(step))
