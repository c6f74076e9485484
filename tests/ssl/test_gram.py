"""Gram anchoring in the step: which tokens are compared, when its teacher changes, what it adds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.build.gram import build_gram
from dinojax.config.method import ScheduleConfig
from dinojax.config.stages import GramConfig
from dinojax.losses.gram import gram_loss
from dinojax.models.vit import VisionTransformer
from dinojax.precision import POLICIES
from dinojax.schedules import linear_warmup_cosine_decay
from dinojax.ssl.gram import GramAnchor, Refresh
from dinojax.ssl.inputs import StepInputs

GROUPS, CROPS, PATCHES, WIDTH = 2, 4, 6, 3
RNG = np.random.default_rng(0)
STUDENT, TEACHER = (jnp.asarray(RNG.normal(size=(GROUPS, CROPS, PATCHES, WIDTH))) for _ in range(2))


BACKBONE = VisionTransformer(embed_dim=8, depth=1, num_heads=1, precision=POLICIES["float32"])
"""Not run here."""


def masks() -> np.ndarray:
    """As many in each group, not in each crop."""
    flat = np.zeros((GROUPS, CROPS * PATCHES), bool)
    flat[0, [1, 2, 7, 13, 20]] = flat[1, [0, 5, 6, 22, 23]] = True
    return flat


INPUTS: Any = StepInputs(
    *(None,) * 3,
    mask_indices=jnp.stack([np.flatnonzero(m) for m in masks()]),
    mask_weights=None,
    draws=(None, None),
)


def terms_of(**options: Any) -> dict[str, float]:
    anchor = GramAnchor(BACKBONE, lambda step: 0.5 + step, **options)
    given = {"student": STUDENT, "teacher": TEACHER, "inputs": INPUTS, "step": 2}
    total, terms = jax.jit(
        lambda: anchor.add_to(jnp.float32(10), {"other": jnp.float32(1)}, **given)
    )()
    assert terms["total_loss"] == total and terms["other"] == 1
    found = {name: float(value) for name, value in terms.items()}
    assert found["gram_loss_weight"] == 2.5
    assert found["total_loss"] == pytest.approx(10 + 2.5 * found["gram_loss"], rel=1e-6)
    return found


def loss_of(*pairs: tuple[np.ndarray, np.ndarray]) -> float:
    """The mean of the losses of sets of tokens ``[n, D]``."""
    return float(np.mean([gram_loss(*map(jnp.asarray, pair)) for pair in pairs]))


def tokens(chosen: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    flat = [np.asarray(x).reshape(GROUPS, -1, WIDTH) for x in (STUDENT, TEACHER)]
    return [tuple(x[group, chosen[group]] for x in flat) for group in range(GROUPS)]


def test_one_matrix_per_group_or_per_image():
    whole = [tuple(x[g].reshape(-1, WIDTH) for x in (STUDENT, TEACHER)) for g in range(GROUPS)]
    assert terms_of()["gram_loss"] == pytest.approx(loss_of(*whole), rel=1e-5)
    images = [(STUDENT[g, i], TEACHER[g, i]) for g in range(GROUPS) for i in range(CROPS)]
    found = terms_of(img_level=True)["gram_loss"]
    assert found == pytest.approx(loss_of(*images), rel=1e-5)


def test_masked_and_unmasked_tokens():
    expected = {"masked": loss_of(*tokens(masks())), "unmasked": loss_of(*tokens(~masks()))}
    for name, value in expected.items():
        assert terms_of(tokens_used=name)["gram_loss"] == pytest.approx(value, rel=1e-5)
    # Statistics of both beside any loss; the reference's names.
    found = terms_of(img_level=True, compute_stats=True)
    for name, value in expected.items():
        assert found[f"stats_only/{name}_gram_loss"] == pytest.approx(value, rel=1e-5)


def test_statistics_have_no_gradient():
    def gradient(**options: Any):
        anchor = GramAnchor(BACKBONE, lambda step: 0.0, **options)
        given = {"teacher": TEACHER, "inputs": INPUTS, "step": 0}

        def summed(student):
            return sum(anchor.add_to(jnp.float32(0), {}, student=student, **given)[1].values())

        return jax.grad(summed)(STUDENT)

    plain = gradient()
    assert np.abs(plain).max() > 0
    np.testing.assert_array_equal(gradient(compute_stats=True), plain)


def reference_refreshes(steps: int, load, every, first, limit) -> list[int]:
    """The reference's loop, with a counter: after how many steps its Gram teacher is a new copy."""
    refreshed, updates = [], 0
    for it in range(steps):
        if it == load:  # at the beginning of an iteration
            refreshed.append(it)
        if every is None or it + 1 < first or (it + 1) % every:
            continue
        if limit is None or updates < limit:
            updates += 1
            refreshed.append(it + 1)
    return sorted(set(refreshed) - {0})


@pytest.mark.parametrize(
    "options",
    [
        (None, 2, 0, 1),
        (None, 2, 0, None),
        (None, 3, 7, 2),
        (None, 3, 6, 2),
        (4, None, 0, None),
        (5, 4, 8, 3),
        (0, 1, 1, 4),
    ],
    ids=str,
)
def test_refreshes_are_those_of_the_reference(options):
    """Without a counter: so also after resuming, where the reference has to guess it."""
    refresh = Refresh(*options)
    found = [n for n in range(1, 25) if bool(jax.jit(refresh.due)(jnp.int32(n)))]
    assert found == reference_refreshes(25, *options)


def test_the_published_refreshes():
    refresh = Refresh(None, 10_000, 1_010_000, 3)
    due = [n for n in range(1_000_000, 1_200_001, 1000) if refresh.due(n)]
    assert due == [1_010_000, 1_020_000, 1_030_000]


def test_refreshed_teacher():
    anchor = GramAnchor(BACKBONE, lambda step: 1.0, refresh=Refresh(load_step=3))
    old, new = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    assert anchor.refreshed(None, new, 3) is None
    np.testing.assert_array_equal(anchor.refreshed(old, new, jnp.int32(2))["w"], 0)
    np.testing.assert_array_equal(anchor.refreshed(old, new, jnp.int32(3))["w"], 1)
    assert anchor._replace(refresh=Refresh()).refreshed(old, new, 3) is old


def test_no_weight_before_there_is_a_teacher():
    """To load the EMA at a step is what the reference cannot do without a checkpoint."""
    config = {
        "use_loss": True,
        "load_ema_step": 3,
        "loss_weight": ScheduleConfig(peak=2.0, end=2.0),
    }
    weight = linear_warmup_cosine_decay(start=0.0, peak=2.0, end=2.0, warmup_steps=0, total_steps=9)
    for teacher, expected in ((None, [0, 0, 0, 2, 2]), ("runs/x", [2] * 5)):
        anchor = build_gram(GramConfig(**config, teacher=teacher), BACKBONE, weight)
        assert [float(anchor.weight(step)) for step in range(5)] == expected
