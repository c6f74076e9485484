"""Chips and the topologies that ``--topology`` names: v5e:4x4, v5p:4x4x8, v6e:8x8, gpu:8xh200."""

import math
import re
from dataclasses import dataclass

from dinojax.runtime.throughput import PEAK_16_BIT

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device as JAX counts them.

    Attributes:
        kind: as in `runtime.throughput.PEAK_16_BIT`.
        hbm_bytes: what programs may use.
        per_host: devices of one host.
        host_cores: virtual CPU cores of that host.
        dimensions: of the interconnect's shape; 0 for GPUs.
    """

    kind: str
    hbm_bytes: int
    per_host: int
    host_cores: int
    dimensions: int = 0

    @property
    def peak_flops(self) -> float:
        """Dense bf16 FLOP/s."""
        return PEAK_16_BIT[self.kind]


JAX_SHARE = 0.75
"""Of a GPU's memory, what JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""

CHIPS = {
    # HBM as libtpu counts it when a program is too large ("of 15.75G hbm"); chips and cores of a
    # host: cloud.google.com/tpu/docs, machine types ct5lp-hightpu-4t, ct5p-hightpu-4t and
    # ct6e-standard-4t.
    "v5e": Chip("tpu v5e", int(15.75 * GIB), per_host=4, host_cores=112, dimensions=2),
    "v5p": Chip("tpu v5", int(95.74 * GIB), per_host=4, host_cores=208, dimensions=3),
    "v6e": Chip("tpu v6e", int(31.25 * GIB), per_host=4, host_cores=180, dimensions=2),
    # NVIDIA's data sheets; cores: a3-highgpu-8g, a3-ultragpu-8g and a4-highgpu-8g of Google Cloud.
    "h100": Chip("h100", int(JAX_SHARE * 80e9), per_host=8, host_cores=208),
    "h200": Chip("h200", int(JAX_SHARE * 141e9), per_host=8, host_cores=224),
    "b200": Chip("b200", int(JAX_SHARE * 180e9), per_host=8, host_cores=224),
}
TPU_KINDS = {"tpu v5 lite": "v5e", "tpu v5": "v5p", "tpu v5p": "v5p", "tpu v6 lite": "v6e"}
"""What JAX calls the devices (`device_kind`)."""


@dataclass(frozen=True)
class Topology:
    """A number of devices of one kind.

    Attributes:
        name: as given.
        chip: of `CHIPS`.
        shape: of the interconnect; for GPUs their number.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def devices(self) -> int:
        return math.prod(self.shape)

    @property
    def is_tpu(self) -> bool:
        return self.chip.dimensions > 0

    @property
    def hosts(self) -> int:
        return math.ceil(self.devices / self.chip.per_host)


def parse_topology(name: str) -> Topology:
    """From the words of ``--topology``.

    Raises:
        ValueError: an unknown chip, or a shape that it does not have.
    """
    kind, _, shape = name.partition(":")
    gpus = re.fullmatch(r"(\d+)x(\w+)", shape)
    if kind == "gpu" and gpus and gpus[2] in CHIPS and not CHIPS[gpus[2]].dimensions:
        sizes, chip = (int(gpus[1]),), CHIPS[gpus[2]]
    elif kind in CHIPS and CHIPS[kind].dimensions and re.fullmatch(r"\d+(x\d+)*", shape):
        sizes, chip = tuple(map(int, shape.split("x"))), CHIPS[kind]
    else:
        sizes, chip = (), None
    if chip is None or min(sizes, default=0) < 1 or len(sizes) != max(chip.dimensions, 1):
        raise ValueError(
            f"topology {name!r} is unknown; use one like v5e:4x4, v5p:4x4x8, v6e:8x8 or gpu:8xh200 "
            f"(chips: {', '.join(CHIPS)})"
        )
    return Topology(name, chip, sizes)


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls `device_kind`; None for CPUs and what is not in `CHIPS`."""
    kind = device_kind.lower()
    if kind in TPU_KINDS:
        return CHIPS[TPU_KINDS[kind]]
    return next(
        (chip for name, chip in CHIPS.items() if not chip.dimensions and name in kind), None
    )
