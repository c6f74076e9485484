"""Weighted kNN against NumPy in float64, with ties and mistakes."""

import numpy as np
import pytest

from dinojax.evaluation.knn import CHUNK, knn_accuracy, knn_predict

RNG = np.random.default_rng(0)


def oracle(bank, bank_labels, queries, k, temperature, num_classes):
    """One query at a time, in float64, with a stable sort."""
    bank = bank.astype(float) / np.linalg.norm(bank.astype(float), axis=1, keepdims=True)
    out = []
    for query in queries.astype(float):
        similarity = bank @ (query / np.linalg.norm(query))
        nearest = np.argsort(-similarity, kind="stable")[:k]
        votes = np.zeros(num_classes)
        for i in nearest:
            votes[bank_labels[i]] += np.exp(similarity[i] / temperature)
        out.append(votes.argmax())
    return np.array(out)


def clusters(count, classes=5, width=16, noise=1.2):
    centres = np.random.default_rng(7).normal(size=(classes, width))
    labels = RNG.integers(0, classes, count).astype(np.int32)
    features = centres[labels] + noise * RNG.normal(size=(count, width))
    return (3.0 * features).astype(np.float32), labels


@pytest.mark.parametrize("count", [7, CHUNK, CHUNK + 3])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (150, 0.02)])
def test_matches_numpy(count, k, temperature):
    bank, bank_labels = clusters(150)
    queries, labels = clusters(count)
    expected = oracle(bank, bank_labels, queries, k, temperature, 5)
    options = {"k": k, "temperature": temperature, "num_classes": 5}
    actual = knn_predict(bank, bank_labels, queries, **options)
    np.testing.assert_array_equal(actual, expected)
    accuracy = knn_accuracy(bank, bank_labels, queries, labels, **options)
    assert accuracy == pytest.approx((expected == labels).mean())


def test_votes_are_weighted_by_similarity():
    """One near neighbour outvotes two far ones at a low temperature, not at a high one."""
    bank = np.array([[1, 0], [0.6, 0.8], [0.6, -0.8]], np.float32)
    labels, query = np.array([1, 0, 0], np.int32), np.array([[1, 0]], np.float32)
    for temperature, winner in ((0.07, 1), (10.0, 0)):
        options = {"k": 3, "temperature": temperature, "num_classes": 2}
        assert knn_predict(bank, labels, query, **options).tolist() == [winner]


def test_length_of_features_does_not_count():
    bank = np.array([[1, 0.1], [0, 50]], np.float32)
    options = {"k": 1, "temperature": 0.07, "num_classes": 2}
    labels = np.array([0, 1], np.int32)
    assert knn_predict(bank, labels, np.float32([[9, 8]]), **options).tolist() == [0]


def test_ties_go_to_the_first_in_the_bank_and_the_lower_class():
    bank = np.eye(4, dtype=np.float32)[[0, 0, 0, 1]]
    query, labels = np.eye(4, dtype=np.float32)[:1], np.array([3, 2, 1, 0], np.int32)
    options = {"temperature": 0.07, "num_classes": 4}
    assert knn_predict(bank, labels, query, k=1, **options).tolist() == [3]
    assert knn_predict(bank, labels, query, k=3, **options).tolist() == [1]


def test_low_temperatures_do_not_overflow():
    bank, labels = clusters(40)
    options = {"k": 10, "temperature": 1e-3, "num_classes": 5}
    assert knn_accuracy(bank, labels, bank, labels, **options) == 1.0


def test_a_feature_that_is_zero_is_no_neighbour_and_no_crash():
    bank = np.array([[0, 0], [1, 1]], np.float32)
    options = {"k": 1, "temperature": 0.07, "num_classes": 2}
    assert knn_predict(bank, np.array([0, 1], np.int32), bank[1:], **options).tolist() == [1]


def test_mistakes_are_named():
    bank, labels = clusters(10)[0], np.arange(10, dtype=np.int32) % 5
    options = {"k": 3, "temperature": 0.07, "num_classes": 5}
    for changes, message in (
        ({"k": 11}, r"k=11 must lie in 1..10, the size of the bank; use 10"),
        ({"k": 0}, "k=0 must lie in 1..10"),
        ({"temperature": 0.0}, "temperature=0.0 must be positive"),
        ({"num_classes": 2}, r"bank_labels hold 0..4 .* num_classes=2"),
    ):
        with pytest.raises(ValueError, match=message):
            knn_accuracy(bank, labels, bank, labels, **options | changes)
    with pytest.raises(ValueError, match=r"query_labels hold -1..-1 .* without a label \(-1\)"):
        knn_accuracy(bank, labels, bank, np.full(10, -1, np.int32), **options)
    with pytest.raises(ValueError, match="there are no queries"):
        knn_accuracy(bank, labels, bank[:0], labels[:0], **options)
    with pytest.raises(ValueError, match="the bank is empty"):
        knn_accuracy(bank[:0], labels[:0], bank, labels, **options)
