"""Schedules and scaling rules by hand, at the edges of warm-up, cosine and freeze."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.schedules import (
    cosine_schedule,
    linear_warmup_cosine_decay,
    scale_by_batch,
    zero_before,
)


def values(schedule, steps) -> np.ndarray:
    with jax.enable_x64(True):
        return np.array([float(schedule(step)) for step in steps])


def test_dinov3_includes_both_ends():
    schedule = linear_warmup_cosine_decay(
        start=0.1, peak=1.1, end=0.5, warmup_steps=4, total_steps=9
    )
    # Warm-up reaches `peak` one step after its last; the cosine has 5 samples, 1.1 ... 0.5.
    warm = [0.1, 0.35, 0.6, 0.85]
    cosine = [0.8 + 0.3 * math.cos(math.pi * i / 4) for i in range(5)]
    expected = [*warm, *cosine, 0.5, 0.5]
    assert expected[4] == pytest.approx(1.1)
    assert expected[8] == pytest.approx(0.5)
    np.testing.assert_allclose(values(schedule, range(11)), expected, rtol=1e-12)


def test_dinov3_without_warmup_and_with_short_cosines():
    def run(cosine_steps, warmup_steps=0):
        return values(
            linear_warmup_cosine_decay(
                start=0.0,
                peak=1.0,
                end=0.2,
                warmup_steps=warmup_steps,
                total_steps=6,
                cosine_steps=cosine_steps,
            ),
            range(6),
        )

    assert run(None)[0] == 1.0
    np.testing.assert_allclose(run(3), [1, 0.6, 0.2, 0.2, 0.2, 0.2], atol=1e-12)
    np.testing.assert_allclose(run(1), [1, 0.2, 0.2, 0.2, 0.2, 0.2], atol=1e-12)
    np.testing.assert_allclose(run(0), [0.2] * 6, atol=1e-12)
    np.testing.assert_allclose(run(None, 6), np.arange(6) / 6, atol=1e-12)
    np.testing.assert_allclose(run(0, 2), [0, 0.5, 0.2, 0.2, 0.2, 0.2], atol=1e-12)


def test_dinov2_warmup_is_inclusive_and_the_cosine_stops_one_short():
    schedule = cosine_schedule(
        base=1.0, final=0.2, total_steps=10, warmup_steps=3, start=0.4, freeze_steps=2
    )
    cosine = [0.6 + 0.4 * math.cos(math.pi * i / 5) for i in range(5)]
    expected = [0, 0, 0.4, 0.7, 1.0, *cosine, 0.2, 0.2]
    np.testing.assert_allclose(values(schedule, range(12)), expected, atol=1e-12)
    assert expected[9] > 0.2


def test_dinov2_single_warmup_step_starts_at_start():
    schedule = cosine_schedule(base=1.0, final=0.0, total_steps=4, warmup_steps=1, start=0.3)
    np.testing.assert_allclose(values(schedule, range(3)), [0.3, 1.0, 0.75], atol=1e-12)


def test_dinov2_truncated_cosine_ends_at_final():
    schedule = cosine_schedule(base=1.0, final=0.2, total_steps=8, trunc_extra=0.25)
    # The first 8 of 10 samples of a full cosine, stretched so that the eighth is `final`.
    full = [(1 + math.cos(math.pi * i / 9)) / 2 for i in range(8)]
    expected = [0.2 + 0.8 * (c - full[7]) / (1 - full[7]) for c in full]
    np.testing.assert_allclose(values(schedule, range(8)), expected, atol=1e-12)
    assert expected[7] == 0.2


def test_zero_before():
    schedule = zero_before(lambda step: jnp.asarray(step + 1.0), 3)
    np.testing.assert_array_equal(values(schedule, range(5)), [0, 0, 0, 4, 5])
    np.testing.assert_array_equal(
        values(zero_before(lambda step: jnp.full((), 2.0), 0), range(2)), [2, 2]
    )


def test_traced_step_gives_the_same_value():
    schedule = zero_before(cosine_schedule(base=1.0, final=0.0, total_steps=7, warmup_steps=2), 1)
    with jax.enable_x64(True):
        traced = jax.vmap(schedule)(jnp.arange(9))
        np.testing.assert_array_equal(traced, [float(schedule(step)) for step in range(9)])


@pytest.mark.parametrize(
    ("rule", "factor"),
    [
        ("none", 1),
        ("linear_wrt_256", 8),  # 2048 / 256
        ("sqrt_wrt_1024", 4 * 2**0.5),  # the factor 4 of DINOv3's code
        ("sqrt_wrt_1024_dinov2", 2**0.5),
    ],
)
def test_scaling_rules(rule, factor):
    assert scale_by_batch(3e-4, rule, 2048) == pytest.approx(3e-4 * factor, rel=1e-12)


def test_errors_name_the_numbers():
    v3 = {"start": 0.0, "peak": 1.0, "end": 0.0, "total_steps": 10}
    for bad in ({"warmup_steps": 11}, {"warmup_steps": -1}, {"warmup_steps": 5, "cosine_steps": 6}):
        with pytest.raises(
            ValueError, match=rf"warmup_steps={bad['warmup_steps']} .*into 10 steps"
        ):
            linear_warmup_cosine_decay(**v3, **bad)
    with pytest.raises(
        ValueError, match=r"warmup_steps=5 and freeze_steps=6 do not fit into 10 st"
    ):
        cosine_schedule(base=1.0, final=0.0, total_steps=10, warmup_steps=5, freeze_steps=6)
    with pytest.raises(ValueError, match=r"scaling_rule='sqrt' is unknown; use one of .*none"):
        scale_by_batch(1.0, "sqrt", 256)
