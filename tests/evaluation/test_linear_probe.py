"""Probes trained together against each of them alone, in NumPy."""

import jax
import numpy as np
import pytest

from dinojax import mesh
from dinojax.evaluation.linear_probe import (
    Head,
    ProbeBatch,
    ProbeInput,
    join,
    probe_inputs,
    rank_by_probes,
    row_order,
    train_probes,
)
from dinojax.prng import key_for

RNG = np.random.default_rng(0)
LAYERS, WIDTH, MEAN, CLASSES, BATCH, STEPS = 3, 4, 5, 3, 16, 7
RATES = (0.5, 8.0, 40.0)
INPUTS = tuple(probe_inputs((1, 3), (True, False), stored=LAYERS))


def batches() -> list[ProbeBatch]:
    rng = np.random.default_rng(1)
    return [
        ProbeBatch(
            rng.normal(size=(BATCH, LAYERS, WIDTH)).astype(np.float32),
            rng.normal(size=(BATCH, MEAN)).astype(np.float32),
            rng.integers(0, CLASSES, BATCH).astype(np.int32),
        )
        for _ in range(STEPS)
    ]


def alone(given: ProbeInput, rate: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One probe by torch's SGD with momentum, in float64."""
    width = given.layers * WIDTH + given.avgpool * MEAN
    key = key_for(seed, 0, "linear probe", given.name)
    w = 0.01 * np.asarray(jax.random.normal(key, (width, CLASSES)), float)
    b, vw, vb = np.zeros(CLASSES), 0.0, 0.0
    for step, batch in enumerate(batches()):
        parts = [np.asarray(batch.cls)[:, LAYERS - given.layers :].reshape(BATCH, -1)]
        x = np.concatenate([*parts, batch.mean] if given.avgpool else parts, 1).astype(float)
        logits = x @ w + b
        shares = np.exp(logits - logits.max(1, keepdims=True))
        slope = shares / shares.sum(1, keepdims=True)
        slope[np.arange(BATCH), batch.labels] -= 1
        vw, vb = 0.9 * vw + x.T @ slope / BATCH, 0.9 * vb + slope.mean(0)
        now = rate * BATCH / 256 * 0.5 * (1 + np.cos(np.pi * step / STEPS))
        w, b = w - now * vw, b - now * vb
    return w, b


@pytest.fixture(scope="module")
def heads():
    """On eight devices."""
    with jax.set_mesh(mesh.make_mesh(2, 4)):
        return train_probes(batches(), INPUTS, RATES, num_classes=CLASSES, iterations=STEPS, seed=3)


@pytest.mark.parametrize("given", INPUTS, ids=lambda one: one.name)
def test_each_is_as_if_trained_alone(heads, given):
    for number, rate in enumerate(RATES):
        w, b = alone(given, rate, seed=3)
        np.testing.assert_allclose(heads[given.name].weights[number], w, atol=2e-5)
        np.testing.assert_allclose(heads[given.name].bias[number], b, atol=2e-5)


def test_inputs():
    assert [one.name for one in INPUTS] == [
        "layers1",
        "layers1_avgpool",
        "layers3",
        "layers3_avgpool",
    ]
    # Of a backbone with one layer of its width, both grids are the same probe.
    assert probe_inputs((1, 4), (True,), stored=1) == [ProbeInput(1, True)]
    batch = batches()[0]
    joined = np.asarray(join(batch, ProbeInput(2, True)))
    expected = [np.asarray(batch.cls)[:, 1], np.asarray(batch.cls)[:, 2], batch.mean]
    np.testing.assert_array_equal(joined, np.concatenate(expected, axis=1))


def test_ranking(heads):
    batch = batches()[0]
    ranked = rank_by_probes(heads, batch, INPUTS, 2)
    head: Head = heads["layers3"]
    scores = np.asarray(batch.cls).reshape(BATCH, -1) @ np.asarray(head.weights[1])
    expected = np.argsort(-(scores + np.asarray(head.bias[1])), axis=1)[:, :2]
    np.testing.assert_array_equal(ranked["layers3"][1], expected)


def test_order_of_rows():
    """Passes over 10 rows, each complete and in its own order; batches go across their ends."""
    found = np.concatenate(list(row_order(10, 4, 8, seed=0)))
    assert len(found) == 32
    passes = [found[i : i + 10] - 10 * (i // 10) for i in (0, 10, 20)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert passes[0].tolist() != passes[1].tolist()
    assert found.tolist() != np.concatenate(list(row_order(10, 4, 8, seed=1))).tolist()
    # More than the batch holds: small sets come several times in one batch.
    assert [len(one) for one in row_order(3, 8, 2, seed=0)] == [8, 8]
