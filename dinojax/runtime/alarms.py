"""When the numbers of a run say that it is going wrong: rules over its history, in plain words.

A rule is one statistic of the history and a limit. Statistics are relative to the run's own past
where there is one, since no absolute rank or occupancy means the same for two models. The limits
lie between healthy and broken tiny runs, wide of the former: `benchmarks/guardian.py` has both.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

Scores = Mapping[str, float | None]
RECENT = 3
"""Logged steps that a rule about steps looks at, and evaluations that one about targets does."""


class History(NamedTuple):
    """What a run has said so far, of one student; both by ascending step."""

    evaluations: Sequence[tuple[int, Scores]] = ()
    """Scores of states: those of the monitor."""
    steps: Sequence[tuple[int, Scores]] = ()
    """Metrics of training steps; the last few are enough."""

    def values(self, name: str) -> list[tuple[int, float]]:
        """Finite scores of this name."""
        return _finite(self.evaluations, name)

    def logged(self, name: str) -> list[tuple[int, float]]:
        """Finite metrics of this name."""
        return _finite(self.steps, name)


class Alarm(NamedTuple):
    """A rule that holds."""

    name: str
    step: int
    value: float
    """Of the rule's statistic."""
    text: str
    """What is seen, what it means and what to do."""
    curable: bool
    """Whether an earlier state and other batches may help."""


class Rule(NamedTuple):
    """Holds while its statistic is at its limit or beyond."""

    statistic: Callable[[History], float | None]
    """None: nothing can be said yet."""
    limit: float
    above: bool
    """The side on which it alarms."""
    curable: bool
    of_steps: bool
    """Whether it looks at training steps; else at evaluations."""
    seen: str
    """With ``{value}``."""
    means: str
    help: str

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.above else value <= self.limit


def alarms(
    history: History, limits: Mapping[str, float] = {}, *, of_steps: bool | None = None
) -> list[Alarm]:
    """The rules that hold at the end of `history`.

    Args:
        limits: other limits than those of `RULES`, by the rule's name.
        of_steps: only rules of this kind.
    """
    found = []
    for name, rule in RULES.items():
        lines = history.steps if rule.of_steps else history.evaluations
        if not lines or of_steps not in (None, rule.of_steps):
            continue
        value = rule.statistic(history)
        rule = rule._replace(limit=limits.get(name, rule.limit))
        if value is not None and rule.holds(value):
            text = f"{rule.seen.format(value=value)}. {rule.means} {rule.help}"
            found.append(Alarm(name, lines[-1][0], value, text, rule.curable))
    return found


def _finite(lines: Iterable[tuple[int, Scores]], name: str) -> list[tuple[int, float]]:
    pairs = ((step, values.get(name)) for step, values in lines)
    return [(step, value) for step, value in pairs if value is not None and math.isfinite(value)]


def _of_peak(history: History, *names: str) -> float | None:
    """The least of these scores now, each as a share of its highest so far; 1 at the peak."""
    shares = []
    for name in names:
        values = [value for _, value in history.values(name)]
        if len(values) > 1 and max(values) > 0:
            shares.append(values[-1] / max(values))
    return min(shares, default=None)


def _rank(history: History) -> float | None:
    return _of_peak(history, "rankme", "student_rankme")


def _spread(history: History) -> float | None:
    return _of_peak(history, "nn_distance_q50", "student_nn_distance_q50")


def _prototypes(history: History) -> float | None:
    return _of_peak(history, "cls_occupancy", "patch_occupancy")


def _undecided(history: History) -> float | None:
    """Lowest of the last trained states: random heads know nothing, and need a while to learn."""
    later = [line for line in history.evaluations if line[0] > 0]
    last = [_finite(later, f"{token}_target_entropy")[-RECENT:] for token in ("cls", "patch")]
    return max(
        (min(value for _, value in values) for values in last if len(values) == RECENT),
        default=None,
    )


def _dense(history: History) -> float | None:
    """While nothing global has fallen: what falls with everything else is no dense decay."""
    kept = _of_peak(history, "knn", "rankme")
    return None if kept is None or kept < 0.9 else _of_peak(history, "locality")


def _distance(history: History) -> float | None:
    """At the first evaluation of a trained state, which each start of a run has anew."""
    later = [one for one in history.values("teacher_student_distance") if one[0] > 0]
    return later[-1][1] if later else None


def _labels(history: History) -> float | None:
    """The best of all ways to use the labels, relative to guessing; of the first evaluation."""
    if len(history.evaluations) > 1:
        return None
    chance = history.values("knn_chance")
    names = ("knn", "linear", "student_knn", "student_linear", "knn_pixels")
    tops = [history.values(name) for name in names]
    if not chance or not all(tops) or chance[0][1] >= 1:
        return None
    return max(top[0][1] for top in tops) / chance[0][1]


def _repeated(history: History) -> float | None:
    values = history.values("repeated_images")
    return values[-1][1] if values else None


def _knn(history: History) -> float | None:
    return _of_peak(history, "knn")


def _updates(history: History) -> float | None:
    """The least of the last steps: one large step alone is none."""
    values = [value for _, value in history.logged("backbone_update_ratio")]
    return min(values[-RECENT:]) if len(values) >= RECENT else None


RULES = {
    "rank_collapse": Rule(
        _rank,
        *(0.5, False, True, False),
        "RankMe is at {value:.0%} of its peak",
        "The features of different images point into ever fewer directions: a collapse of "
        "dimensions.",
        "Look at the learning rate and the teacher's temperature and momentum; a higher "
        "dino.koleo_loss_weight spreads features.",
    ),
    "features_alike": Rule(
        _spread,
        *(0.1, False, True, False),
        "The distance to the nearest neighbour is at {value:.0%} of its peak",
        "All images are becoming one point: a complete collapse.",
        "Look at centering, learning rate and the teacher's temperature.",
    ),
    "prototype_collapse": Rule(
        _prototypes,
        *(0.25, False, True, False),
        "The images use {value:.0%} of the prototypes that they used at the peak",
        "The teacher gives ever more images the same target.",
        "Look at centering (train.centering) and lower optim.teacher_temp less at the start.",
    ),
    "uniform_targets": Rule(
        _undecided,
        *(0.98, True, True, False),
        "The entropy of the targets is {value:.1%} of the highest possible",
        "The teacher finds all prototypes equally likely, and there is nothing to learn from it.",
        "Lower optim.teacher_temp.",
    ),
    "dense_decay": Rule(
        _dense,
        *(0.7, False, True, False),
        "Locality is at {value:.0%} of its peak, and global features are not worse",
        "Patches of an image grow alike: dense tasks get worse first (DINOv3, section 4.1).",
        "Anchor the next stage to an earlier snapshot (gram.use_loss; python -m dinojax.show "
        "snapshots).",
    ),
    "teacher_is_student": Rule(
        _distance,
        *(1e-7, False, False, False),
        "The distance of teacher and student is {value:.1e} of the student",
        "There is no moving average: the student predicts itself, which collapses, or the monitor "
        "is given the wrong network.",
        "Look at optim.momentum.",
    ),
    "labels_look_wrong": Rule(
        _labels,
        *(1.0, False, False, False),
        "kNN, linear and raw pixels all are at {value:.0%} of what guessing reaches",
        "Even colours tell something of most classes: the labels of the monitor do not belong to "
        "its images.",
        "Look at the folders or columns that they come from. Training does not use them.",
    ),
    "repeated_images": Rule(
        _repeated,
        *(0.5, True, False, False),
        "{value:.0%} of the held-out images look like another one",
        "Images are of one colour or are copies: they are read or decoded wrongly.",
        "Look at them: python -m dinojax.show batch.",
    ),
    "worse_features": Rule(
        _knn,
        *(0.7, False, True, False),
        "kNN is at {value:.0%} of its peak",
        "The features lose what they knew.",
        "Look at which number fell first; go back to a checkpoint before it.",
    ),
    "large_updates": Rule(
        _updates,
        *(0.03, True, False, True),
        "Steps change the backbone by {value:.0%} of its norm or more",
        "The learning rate is too large for these weights.",
        "Lower optim.lr.peak or lengthen optim.lr.warmup_steps.",
    ),
}
"""By the name of the alarm."""
