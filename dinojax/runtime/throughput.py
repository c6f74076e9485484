"""How fast a run is: images per second, share of the devices' peak, waiting for data, time left."""

import contextlib
import datetime
import functools
import time
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.typing import PyTree

PEAK_16_BIT = {
    "tpu v4": 275e12,
    "tpu v5 lite": 197e12,
    "tpu v5e": 197e12,
    "tpu v5": 459e12,
    "tpu v6 lite": 918e12,
    "tpu v6e": 918e12,
    "a100": 312e12,
    "h100 pcie": 756e12,
    "h100": 989e12,
    "h200": 989e12,
    "b200": 2250e12,
    "rtx 4090": 165e12,
}
"""Dense bf16 matmul FLOP/s of the vendors' data sheets; the first name found in the kind counts."""
FLOAT32_RATIO = {"tpu": 1.0, "gpu": 0.5}
"""Float32 products at JAX's default precision: one bf16 pass on TPUs, TF32 on GPUs."""


class Rates(NamedTuple):
    """Of one log window."""

    images_per_second: float
    mfu: float
    """Model FLOP/s over the devices' peak, 0..1 (arXiv:2204.02311, appendix B)."""
    data_wait: float
    """Share of the time spent waiting for a batch, 0..1."""
    eta_seconds: float
    """For the remaining steps at this speed, without pauses."""


class Throughput:
    """Times windows of steps, without the pauses inside.

    Dispatch is asynchronous: the host has gone on to later steps when a window's last step is
    finished. So `mark` ends a window on the host, which fixes its pauses and waits, and `report`
    gives its rates once it is known when that step was finished.

    Args:
        step: steps done before the first window.
        total_steps: steps of the whole run.
        images_per_step: the global batch.
        flops_at: model FLOPs of a step, by its number, over all devices (`dinojax.ssl.flops`).
        peak_flops: FLOP/s of all devices together (`total_peak_flops`).
        clock: seconds from any origin; tests pass their own.
    """

    def __init__(
        self,
        step: int,
        *,
        total_steps: int,
        images_per_step: int,
        flops_at: Callable[[int], float],
        peak_flops: float,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._total_steps = total_steps
        self._images_per_step = images_per_step
        self._flops_at, self._peak_flops = flops_at, peak_flops
        self.clock = clock
        self.start(step)

    def start(self, step: int) -> None:
        """The first window starts here, with `step` steps done and none running."""
        self._step, self._since = step, self.clock()
        self._paused = self._waited = 0.0
        self._marked: dict[int, tuple[float, float]] = {}

    @contextlib.contextmanager
    def pause(self, pending: PyTree = None) -> Generator[None, None, None]:
        """Leave the time inside out: compilation, evaluation, checkpoints.

        Waits for `pending` first (the state): steps still running belong to the window.
        """
        jax.block_until_ready(pending)
        start = self.clock()
        try:
            yield
        finally:
            self._paused += self.clock() - start

    @contextlib.contextmanager
    def waiting(self) -> Generator[None, None, None]:
        """The time inside is waiting for data; around ``next(batches)``."""
        start = self.clock()
        try:
            yield
        finally:
            self._waited += self.clock() - start

    def mark(self, step: int) -> None:
        """A window ends with `step`: pauses and waits from now on belong to the next one."""
        self._marked[step] = self._paused, self._waited
        self._paused = self._waited = 0.0

    def report(self, step: int, finished: float) -> Rates:
        """Rates of the window that `mark` ended with `step`.

        Args:
            finished: when that step was, by `clock`.

        Raises:
            ValueError: no step was done since the last report.
        """
        steps = step - self._step
        if steps < 1:
            raise ValueError(f"step={step} must be above {self._step}, the last reported step")
        paused, waited = self._marked.pop(step)
        flops = sum(map(self._flops_at, range(self._step, step)))
        seconds = max(finished - self._since - paused, 1e-9)
        self._step, self._since = step, finished
        return Rates(
            images_per_second=steps * self._images_per_step / seconds,
            mfu=flops / self._peak_flops / seconds,
            data_wait=min(waited / seconds, 1.0),
            eta_seconds=(self._total_steps - step) * seconds / steps,
        )


def progress_line(step: int, total_steps: int, loss: float, rates: Rates) -> str:
    """``step 120/2000  loss 8.123  412 img/s  mfu 31.2%  data 0.4%  eta 0:12:31``."""
    speed = rates.images_per_second
    return (
        f"step {step}/{total_steps}"
        f"  loss {loss:.3f}"
        f"  {speed:.{0 if speed >= 10 else 2}f} img/s"
        f"  mfu {rates.mfu:.1%}"
        f"  data {rates.data_wait:.1%}"
        f"  eta {datetime.timedelta(seconds=round(rates.eta_seconds))}"
    )


def total_peak_flops(
    devices: Sequence[jax.Device],  # type: ignore[valid-type]
    dtype: DTypeLike,
) -> float:
    """`peak_flops` of all devices; CPU devices of one process share its cores and count once."""
    first_of_host = {device.process_index: device for device in devices}
    if devices[0].platform == "cpu":
        devices = list(first_of_host.values())
    return sum(peak_flops(device, dtype) for device in devices)


def peak_flops(
    device: jax.Device,  # type: ignore[valid-type]
    dtype: DTypeLike,
) -> float:
    """Peak matmul FLOP/s of one device: from the table, or measured where it has no entry."""
    kind = device.device_kind.lower()
    known = next((peak for name, peak in PEAK_16_BIT.items() if name in kind), None)
    bits = jnp.finfo(dtype).bits
    if known is None or bits not in (16, 32):
        return _measured_flops(device.platform, device.device_kind, jnp.dtype(dtype).name)
    return known if bits == 16 else known * FLOAT32_RATIO[device.platform]


@functools.cache
def _measured_flops(platform: str, kind: str, dtype: str) -> float:
    """Median of 5 timed square products, on a device of this process."""
    device = next(d for d in jax.local_devices(backend=platform) if d.device_kind == kind)
    side = 1024 if platform == "cpu" else 8192
    x = jax.device_put(jnp.ones((side, side), dtype), device)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / sorted(seconds)[2]
