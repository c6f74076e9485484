"""Retrieval against an oracle that counts query by query, and cases known by hand."""

import numpy as np
import pytest

from dinojax.data.eval_records import Judged
from dinojax.evaluation.retrieval import class_precision, order, revisited_scores

RNG = np.random.default_rng(0)


def judged(easy=(), hard=(), junk=()) -> Judged:
    return Judged(*(np.array(part, np.int64) for part in (easy, hard, junk)))


def oracle(ranking, positive, junk, ks):
    """The benchmark's own loops (github.com/filipradenovic/revisitop)."""
    kept = [image for image in ranking if image not in junk]
    places = [place for place, image in enumerate(kept) if image in positive]
    precision = 0.0
    for j, place in enumerate(places):
        before = 1.0 if place == 0 else j / place
        precision += (before + (j + 1) / (place + 1)) / (2 * len(positive))
    at = []
    for k in ks:
        last = min(max(places) + 1, k)
        at.append(sum(place + 1 <= last for place in places) / last)
    return [precision, *at]


def test_revisited_levels_match_the_benchmarks_loops():
    images, ks = 30, (1, 5, 10)
    ranking = np.stack([RNG.permutation(images) for _ in range(6)])
    cases = []
    for _ in range(6):
        parts = RNG.permutation(images)
        cases.append(judged(parts[:4], parts[4:9], parts[9:12]))
    cases[2] = judged(hard=[3, 4], junk=[5])  # nothing easy: in no mean of that level
    found = revisited_scores(ranking, cases, ks)
    levels = {
        "easy": lambda one: ({*one.easy}, {*one.junk, *one.hard}),
        "medium": lambda one: ({*one.easy, *one.hard}, {*one.junk}),
        "hard": lambda one: ({*one.hard}, {*one.junk, *one.easy}),
    }
    for level, asked in levels.items():
        rows = [
            oracle(ranks, *asked(one), ks)
            for ranks, one in zip(ranking, cases, strict=True)
            if asked(one)[0]
        ]
        expected = np.mean(rows, axis=0)
        names = [f"map_{level}", *(f"mp{k}_{level}" for k in ks)]
        assert [found[name] for name in names] == pytest.approx(expected.tolist())


def test_junk_is_passed_over():
    """Junk before the hits costs nothing, an image that is wrong does."""
    ranking = np.array([[7, 0, 1, 2, 3]])
    clean = revisited_scores(ranking, [judged([0], [1], [7])])
    wrong = revisited_scores(ranking, [judged([0], [1])])
    assert clean["map_easy"] == clean["map_medium"] == clean["map_hard"] == 1
    assert wrong["map_easy"] == pytest.approx((0 / 1 + 1 / 2) / 2)
    assert wrong["mp1_easy"] == 0


def test_a_level_that_nobody_asks_for():
    with pytest.raises(ValueError, match="no query has a hard image to find"):
        revisited_scores(np.array([[0, 1]]), [judged([0])])


def test_classes_match_an_oracle():
    bank, queries = RNG.normal(size=(50, 4)), RNG.normal(size=(12, 4))
    bank_labels, labels = RNG.integers(0, 5, 50), RNG.integers(0, 6, 12)
    labels[0] = 5  # not in the bank
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    precision, first = class_precision(bank.astype("f"), bank_labels, queries.astype("f"), labels)
    for i, query in enumerate(queries):
        hit = bank_labels[np.argsort(-(unit @ query), kind="stable")] == labels[i]
        places = np.flatnonzero(hit)
        shares = [(j + 1) / (place + 1) for j, place in enumerate(places)]
        assert float(precision[i]) == pytest.approx(np.mean(shares) if shares else 0)
        assert int(first[i]) == (places[0] if len(places) else 50)
    assert float(precision[0]) == 0


def test_order():
    bank = np.array([[1, 0], [0, 2], [3, 0], [1, 1]], np.float32)
    assert order(bank, np.array([[5, 0.1]], np.float32)).tolist() == [[0, 2, 3, 1]]
