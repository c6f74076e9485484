"""Parts by class: shares, seeds and what they have in common."""

import numpy as np
import pytest

from dinojax.evaluation.splits import few_per_class, split_by_class

LABELS = np.repeat([0, 1, 2, 3], [40, 10, 2, 1])


def test_of_each_class_its_share():
    kept, held = split_by_class(LABELS, 0.2, seed=0)
    assert sorted([*kept, *held]) == list(range(53))
    assert np.bincount(LABELS[held], minlength=4).tolist() == [8, 2, 1, 0]
    assert (np.diff(kept) > 0).all() and (np.diff(held) > 0).all()


def test_a_class_is_never_held_out_whole():
    kept, _ = split_by_class(LABELS, 0.99, seed=0)
    assert np.bincount(LABELS[kept], minlength=4).tolist() == [1, 1, 1, 1]


def test_seeds_choose():
    one, other, again = (split_by_class(LABELS, 0.2, seed=s)[1].tolist() for s in (0, 1, 0))
    assert one == again != other


def test_few_shots_are_nested():
    few, more = (few_per_class(LABELS[:50], count, seed=3) for count in (2, 5))
    assert set(few) < set(more)
    assert np.bincount(LABELS[more]).tolist() == [5, 5]
    assert few.tolist() != few_per_class(LABELS[:50], 2, seed=4).tolist()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="class 2 has 2 training records, fewer than 5 shots"):
        few_per_class(LABELS, 5, seed=0)
    with pytest.raises(ValueError, match=r"share=1.0 must lie strictly between"):
        split_by_class(LABELS, 1.0, seed=0)
    with pytest.raises(ValueError, match="no class has two records"):
        split_by_class(np.arange(4), 0.5, seed=0)
