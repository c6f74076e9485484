"""Means and spreads over seeds."""

import pytest

from dinojax.tasks.task import Score, over_seeds


def test_over_seeds():
    found = list(over_seeds(lambda seed: {"a": float(seed), "b": 2.0}, (1, 2, 6)))
    assert found == [Score("a", 3.0, pytest.approx(7**0.5)), Score("b", 2.0, 0.0)]
    assert list(over_seeds(lambda seed: {"a": 0.5}, (4,))) == [Score("a", 0.5, None)]
    kept = over_seeds(
        lambda seed: {"a": 0.5}, (0, 1), lambda seed, run: {"a": run(seed)["a"] + seed}
    )
    assert list(kept) == [Score("a", 1.0, pytest.approx(0.5**0.5))]
    with pytest.raises(ValueError, match="seeds is empty"):
        list(over_seeds(lambda seed: {}, ()))


def test_a_metric_that_some_seeds_lack():
    """As the IoU of a class that is in no test map, and that one seed alone predicts."""
    runs = {1: {"a": 1.0}, 3: {"a": 3.0, "b": 0.25}}
    found = {score.metric: score for score in over_seeds(runs.__getitem__, (1, 3))}
    assert found["a"].value == 2 and found["b"] == Score("b", 0.25, None)
