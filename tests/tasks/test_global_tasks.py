"""Tasks on whole images: what they yield, from which rows, over which seeds."""

import dataclasses

import jax
import numpy as np
import pytest
from evaluations import Gradients, evaluation

from dinojax import mesh
from dinojax.data.eval_records import EvalRecords, Judged
from dinojax.evaluation.knn import knn_accuracy
from dinojax.evaluation.logistic import LogisticFit
from dinojax.tasks.fewshot import FEWSHOT, FewshotProtocol
from dinojax.tasks.global_rows import global_rows, labelled_rows
from dinojax.tasks.knn import KNN, KnnProtocol
from dinojax.tasks.linear import LINEAR, LinearProtocol
from dinojax.tasks.logistic import LOGISTIC, LogisticProtocol
from dinojax.tasks.retrieval import RETRIEVAL, RetrievalProtocol

EASY, HARD = 12.0, 60.0
EASIER = {"train": "easy train", "test": "easy test"}
"""Fingerprints of the easier records: features are stored by them."""
SHORT = LinearProtocol(
    learning_rates=(1e-5, 1.0), layers=(1, 4), iterations=40, batch_size=16, seeds=(0, 1)
)


def records(noise=HARD, **changes) -> EvalRecords:
    return EvalRecords(Gradients("train", 60, noise), Gradients("tests", 45, noise), **changes)


def scores(task, protocol, given) -> dict[str, tuple[float, float | None]]:
    with jax.set_mesh(mesh.make_mesh(2, 4)):
        return {one.metric: (one.value, one.spread) for one in task.run(protocol, given)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def hard(folder):
    return evaluation(folder, records())


def test_knn(hard):
    """Every k by itself, the best without its number, and none beyond the bank."""
    found = scores(KNN, KnnProtocol(ks=(1, 20, 500)), hard)
    assert list(found) == [
        *("top1", "mean_class"),
        *(f"{name}_k{k}" for k in (1, 20, 60) for name in ("top1", "mean_class")),
    ]
    bank, queries = (labelled_rows(hard, part) for part in ("train", "test"))
    for k in (1, 20, 60):
        expected = knn_accuracy(
            *(bank.cls, bank.labels, queries.cls, queries.labels),
            k=k,
            temperature=0.07,
            num_classes=3,
        )
        assert found[f"top1_k{k}"] == (pytest.approx(expected), None)
    assert found["top1"][0] == max(found[f"top1_k{k}"][0] for k in (1, 20, 60))
    assert 0.4 < found["top1"][0] < 1


def test_logistic(hard, monkeypatch):
    """C is chosen on a tenth of each class that the seed draws; all rows are fitted with it."""
    fits = []

    def fit(features, labels, cs, *, num_classes, **_):
        """Class means for the middle C, nothing for the others."""
        fits.append((len(features), list(cs)))
        means = np.stack([features[labels == c].mean(0) for c in range(num_classes)])
        means = means - features.mean(0)
        good = np.isclose(cs, 1e-2)[:, None]
        bias = -np.square(means).sum(1) / 2 - means @ features.mean(0)
        return LogisticFit(good[..., None] * means.T, good * bias, np.zeros(len(cs), int))

    monkeypatch.setattr("dinojax.tasks.logistic.fit_logistic", fit)
    protocol = LogisticProtocol(log10_c=(-3.0, -1.0), cs=3, seeds=(0, 1))
    found = scores(LOGISTIC, protocol, hard)
    grid = [pytest.approx(c) for c in (1e-3, 1e-2, 1e-1)]
    assert fits == [(54, grid), (60, grid[1:2])] * 2
    assert set(found) == {"top1", "mean_class"} and found["top1"][0] > 0.6
    assert found["top1"][1] == 0  # both seeds end with the same head
    assert not jax.config.jax_enable_x64


def test_linear(folder):
    """The learning rate that learns is chosen, on a held-out part as on the test records."""
    easy = evaluation(folder, records(EASY), **EASIER)
    found = scores(LINEAR, SHORT, easy)
    assert found["top1"][0] > 0.8 and found["top1"][1] is not None
    published = dataclasses.replace(SHORT, select="test", seeds=(0,))
    assert scores(LINEAR, published, easy)["top1"][0] > 0.8


def test_linear_trains_on_views(hard, monkeypatch):
    """Pass 0 sees crop 0 of every record, pass 1 crop 1, pass 2 crop 0 again, and so on."""
    seen = []

    def spy(batches, inputs, rates, **options):
        seen.extend(batches)
        return {given.name: None for given in inputs}

    monkeypatch.setattr("dinojax.tasks.linear.train_probes", spy)
    monkeypatch.setattr(
        "dinojax.tasks.linear._rank", lambda *_: {"layers1": np.zeros((1, 45, 1), int)}
    )
    protocol = dataclasses.replace(
        SHORT, views=2, iterations=10, batch_size=24, select="test", seeds=(0,)
    )
    scores(LINEAR, protocol, hard)
    with jax.set_mesh(mesh.make_mesh(2, 4)):
        views = [global_rows(hard, "train", view).column("cls", -1) for view in (0, 1)]
    rows = np.concatenate([batch.cls[:, -1] for batch in seen]).reshape(4, 60, -1)
    for number, view in enumerate((0, 1, 0, 1)):
        assert sorted(map(tuple, rows[number])) == sorted(map(tuple, views[view]))
    assert np.abs(views[0] - views[1]).max() > 0.05


def test_devices_share_a_batch(hard):
    with pytest.raises(ValueError, match=r"linear\.batch_size=20 must be .* 8 devices .* use 24"):
        scores(LINEAR, dataclasses.replace(SHORT, batch_size=20), hard)


def test_fewshot(hard):
    found = scores(FEWSHOT, FewshotProtocol(shots=(1, 20), seeds=(0, 1, 2)), hard)
    assert list(found) == ["top1_1shot", "top1_20shot"]
    assert found["top1_20shot"][0] > found["top1_1shot"][0]
    assert found["top1_1shot"][1] > 0 and found["top1_20shot"][1] == pytest.approx(0, abs=1e-12)


def test_shots_that_a_class_lacks_are_left_out(hard, caplog):
    """20 records of each of three classes."""
    found = scores(FEWSHOT, FewshotProtocol(shots=(2, 50), seeds=(0,)), hard)
    assert list(found) == ["top1_2shot"]
    assert "a class has 20 training records, so shots are [2]" in caplog.text
    with pytest.raises(ValueError, match=r"shots=\(50,\), and a class has 20 training records"):
        scores(FEWSHOT, FewshotProtocol(shots=(50,), seeds=(0,)), hard)


def test_views_that_no_pass_sees_are_not_extracted(hard, monkeypatch):
    """7 steps of 24 are 3.1 passes over the 54 that are kept."""
    views = []

    def spy(given, part, view=None, **options):
        views.append(view)
        return global_rows(given, part, view, **options)

    monkeypatch.setattr("dinojax.tasks.linear.global_rows", spy)
    protocol = dataclasses.replace(SHORT, views=50, iterations=7, batch_size=24, seeds=(0,))
    scores(LINEAR, protocol, hard)
    assert views == [0, 1, 2, 3]


def test_retrieval_by_class(folder):
    given = evaluation(folder, records(EASY), **EASIER)
    found = scores(RETRIEVAL, RetrievalProtocol(ks=(1, 5)), given)
    assert list(found) == ["map", "recall1", "recall5"] and found["recall5"][0] > 0.9
    assert found["map"][0] > 0.6


def test_retrieval_by_judgements(folder):
    """Queries ask for the images of their class, easy ones and hard ones."""
    asked = [
        Judged(*(np.arange(60)[part::6] for part in (i % 3, i % 3 + 3)), np.array([], int))
        for i in range(45)
    ]
    given = evaluation(folder, records(EASY, judged=tuple(asked)), **EASIER)
    found = scores(RETRIEVAL, RetrievalProtocol(ks=(1,)), given)
    assert set(found) == {f"{name}_{level}" for name in ("map", "mp1") for level in LEVELS}
    by_class = scores(RETRIEVAL, RetrievalProtocol(), evaluation(folder, records(EASY), **EASIER))
    assert found["map_medium"][0] == pytest.approx(by_class["map"][0], abs=0.05)


LEVELS = ("easy", "medium", "hard")


def test_any_of_several_classes(folder):
    """All three are right for every record."""
    given = evaluation(folder, records(accepted=((0, 1, 2),) * 45))
    assert scores(KNN, KnnProtocol(), given)["top1"] == (1.0, None)


def test_records_without_a_class_are_left_out(folder):
    """Two thirds of the queries have none; what is left are those of class 0."""
    labels = [0 if i % 3 == 0 else None for i in range(45)]
    given = evaluation(
        folder, EvalRecords(records().train, Gradients("tests", 45, HARD, labels)), test="fewer"
    )
    with jax.set_mesh(mesh.make_mesh(2, 4)):
        assert labelled_rows(given, "test").labels.tolist() == [0] * 15


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"select": "best"}, "linear.select='best' is unknown"),
        ({"layers": (1, 5)}, r"linear.layers=\(1, 5\) must lie in 1..4"),
        ({"iterations": 0}, "must not be empty or 0"),
    ],
)
def test_mistakes_are_named(hard, changes, words):
    with pytest.raises(ValueError, match=words):
        scores(LINEAR, dataclasses.replace(SHORT, **changes), hard)


def test_records_without_any_class_are_refused(tmp_path):
    none = Gradients("tests", 15, EASY, [None] * 15)
    given = evaluation(tmp_path, EvalRecords(Gradients("train", 30, EASY), none))
    with pytest.raises(ValueError, match="none of the 15 test records has a class; give others"):
        scores(KNN, KnnProtocol(), given)
