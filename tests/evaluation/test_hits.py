"""Accuracies counted by hand."""

import numpy as np
import pytest

from dinojax.evaluation.hits import accuracies, hits

RANKED = np.array([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [3, 2, 1, 0, 4], [0, 1, 2, 3, 4]])
LABELS = np.array([0, 0, 1, 5])


def test_label_alone():
    """Right at once for one of three classes, late for two records, never for class 5."""
    found = accuracies(RANKED, LABELS)
    assert found == {"top1": 0.25, "top5": 0.75, "mean_class": pytest.approx(0.5 / 3)}
    assert "top5" not in accuracies(RANKED[:, :3], LABELS)


def test_any_of_several():
    accepted = [(4, 1), (1,), (0, 3), (9,)]
    assert accuracies(RANKED, LABELS, accepted) == {"top1": 0.5, "top5": 0.75}
    assert hits(RANKED, LABELS, accepted)[0].tolist() == [False, True, False, False, True]
