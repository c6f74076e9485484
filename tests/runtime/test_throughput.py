"""Throughput against a clock that the test turns by hand."""

from unittest.mock import NonCallableMock

import jax
import jax.numpy as jnp
import pytest

from dinojax.runtime import throughput
from dinojax.runtime.throughput import (
    Rates,
    Throughput,
    peak_flops,
    progress_line,
    total_peak_flops,
)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def device(kind, platform="gpu"):
    return NonCallableMock(spec=jax.Device, device_kind=kind, platform=platform, process_index=0)


def start(clock, step=0):
    return Throughput(
        step,
        total_steps=100,
        images_per_step=32,
        flops_at=lambda step: 6e12,
        peak_flops=10e12,
        clock=clock,
    )


def finish(meter, step):
    """Rates of a window whose last step is finished when the host gets there."""
    meter.mark(step)
    return meter.report(step, meter.clock())


def test_rates_of_a_window():
    clock = Clock()
    meter = start(clock, step=10)
    clock.now += 1.0
    with meter.waiting():
        clock.now += 0.5
    clock.now += 6.5
    assert finish(meter, 20) == Rates(
        images_per_second=40.0, mfu=0.75, data_wait=0.0625, eta_seconds=80 * 0.8
    )


def test_mfu_counts_the_steps_that_were_run():
    """Steps of several resolutions: 1 TFLOP each, the tenth 11."""
    clock = Clock()
    meter = Throughput(
        7,
        total_steps=100,
        images_per_step=32,
        flops_at=lambda step: 11e12 if step % 10 == 9 else 1e12,
        peak_flops=10e12,
        clock=clock,
    )
    clock.now += 2.0
    assert finish(meter, 9).mfu == 2 * 1e12 / 2.0 / 10e12
    clock.now += 2.0
    assert finish(meter, 11).mfu == (11e12 + 1e12) / 2.0 / 10e12


def test_windows_are_independent():
    clock = Clock()
    meter = start(clock)
    with meter.waiting(), meter.pause():
        clock.now += 50
    clock.now += 1
    finish(meter, 1)
    clock.now += 4
    assert finish(meter, 3) == Rates(16.0, 0.3, 0.0, 97 * 2)


def test_a_window_may_be_reported_when_the_next_one_runs():
    """The device finishes steps 4 and 8 after 2 and 10 s; the host pauses and waits for step 8."""
    clock = Clock()
    meter = start(clock)
    meter.mark(4)
    with meter.pause():
        clock.now += 4
    with meter.waiting():
        clock.now += 1
    meter.mark(8)
    assert meter.report(4, 1002.0) == Rates(64.0, 1.2, 0.0, 96 * 0.5)
    assert meter.report(8, 1010.0) == Rates(32.0, 0.6, 0.25, 92 * 1.0)


def test_starting_again_forgets_compilation():
    clock = Clock()
    meter = start(clock)
    with meter.waiting():
        clock.now += 60
    meter.start(1)
    clock.now += 1
    assert finish(meter, 2) == Rates(32.0, 0.6, 0.0, 98.0)


def test_pauses_do_not_count():
    clock = Clock()
    meter = start(clock)
    clock.now += 2
    with pytest.raises(RuntimeError), meter.pause():
        clock.now += 100
        raise RuntimeError
    clock.now += 2
    assert finish(meter, 4).images_per_second == 32.0


def test_a_pause_begins_when_the_device_is_done():
    """Two seconds of work still in flight at the pause belong to the steps."""
    clock = Clock()

    class Running:
        def block_until_ready(self):
            clock.now += 2

    meter = start(clock)
    with meter.pause({"state": Running()}):
        clock.now += 7
    assert finish(meter, 1).images_per_second == 16.0


def test_no_step_is_an_error():
    with pytest.raises(ValueError, match="step=5 must be above 5"):
        finish(start(Clock(), step=5), 5)


def test_progress_line():
    rates = Rates(images_per_second=412.3, mfu=0.3124, data_wait=0.004, eta_seconds=751.2)
    assert progress_line(120, 2000, 8.1234, rates) == (
        "step 120/2000  loss 8.123  412 img/s  mfu 31.2%  data 0.4%  eta 0:12:31"
    )
    slow = progress_line(1, 2, float("nan"), Rates(0.517, 0, 0, 90000))
    assert "loss nan  0.52 img/s" in slow and slow.endswith("eta 1 day, 1:00:00")


@pytest.mark.parametrize(
    ("kind", "platform", "bf16", "f32"),
    [
        ("TPU v4", "tpu", 275e12, 275e12),
        ("TPU v5 lite", "tpu", 197e12, 197e12),
        ("TPU v5", "tpu", 459e12, 459e12),
        ("TPU v5p", "tpu", 459e12, 459e12),
        ("TPU v6 lite", "tpu", 918e12, 918e12),
        ("NVIDIA A100-SXM4-80GB", "gpu", 312e12, 156e12),
        ("NVIDIA H100 80GB HBM3", "gpu", 989e12, 494.5e12),
        ("NVIDIA H100 PCIe", "gpu", 756e12, 378e12),
        ("NVIDIA H200", "gpu", 989e12, 494.5e12),
        ("NVIDIA B200", "gpu", 2250e12, 1125e12),
    ],
)
def test_peaks_of_the_table(kind, platform, bf16, f32):
    assert peak_flops(device(kind, platform), jnp.bfloat16) == bf16
    assert peak_flops(device(kind, platform), jnp.float32) == f32
    assert total_peak_flops([device(kind, platform)] * 4, jnp.bfloat16) == 4 * bf16


def test_cpus_are_measured_once_and_share_their_cores():
    devices = jax.devices()
    peak = peak_flops(devices[0], jnp.float32)
    assert 1e8 < peak < 1e14
    assert peak_flops(devices[1], jnp.float32) == peak
    assert total_peak_flops(devices, jnp.float32) == peak


def test_devices_and_widths_outside_the_table_are_measured(monkeypatch):
    asked = []
    monkeypatch.setattr(throughput, "_measured_flops", lambda *key: asked.append(key) or 1.0)
    assert peak_flops(device("NVIDIA RTX 9999"), jnp.bfloat16) == 1.0
    assert peak_flops(device("NVIDIA H200"), jnp.float64) == 1.0
    assert asked == [("gpu", "NVIDIA RTX 9999", "bfloat16"), ("gpu", "NVIDIA H200", "float64")]
