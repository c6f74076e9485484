"""What the stage ``cluster`` tells while it takes its steps: bars, or lines of the log."""

import itertools
from collections.abc import Iterable, Sequence

from absl import logging

from dinojax.curation.hierarchy import Level, Progress, Splits
from dinojax.curation.kmeans import State
from dinojax.curation.progress_bar import progress_bar
from dinojax.curation.seeding import Seeding
from dinojax.curation.tree import Step


def show(steps: Iterable[Step], levels: Sequence[Level]) -> None:
    """Take all steps. Seeds, iterations and splits of a round have a bar each, unless it is one
    step; where bars are not shown, iterations are logged, and the others once they are done."""

    def work(step: Step) -> tuple[int, int, type]:
        return step.level, step.progress.round, type(step.progress.state)

    for (number, _, kind), some in itertools.groupby(steps, work):
        first = next(some)
        what, total, unit = _named(first.progress, levels[number - 1])
        title = f"cluster: level {number} of {len(levels)}, {what}"
        done, note = _done(first.progress.state)
        if kind is not State and done == total:
            continue
        with progress_bar(title, total, unit, done) as bar:
            for step in itertools.chain([first], some):
                done, note = _done(step.progress.state)
                bar.set_postfix_str(note, refresh=False)
                bar.update(done - bar.n)
                if bar.disable and kind is State and done:
                    logging.info("%s, iteration %d: %s", title, done, note)
            if bar.disable and kind is not State:
                logging.info("%s: %d", title, done)
            bar.total = done  # some end early
            bar.refresh()


def _named(progress: Progress, level: Level) -> tuple[str, int, str]:
    """(what is done in steps, how many there are, what they are called)"""
    turn = f"round {progress.round} of {level.rounds}"
    match progress.state:
        case Seeding():
            return f"{turn}, seeds", level.clusters, "seeds"
        case State():
            return turn, level.iterations, "iterations"
        case Splits():
            return "splits", level.clusters, "clusters"


def _done(state: Seeding | State | Splits) -> tuple[int, str]:
    """(how many steps, a word on what came of them)"""
    match state:
        case Seeding(picked=picked, candidates=candidates):
            return int(picked), f"{len(candidates)} candidates" if len(candidates) else ""
        case State(iteration=iteration, inertia=inertia):
            return int(iteration), f"inertia {float(inertia):.6g}"
        case Splits(centers=centers):
            return len(centers), ""
