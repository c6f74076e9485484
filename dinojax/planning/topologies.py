"""Chips and the topologies that ``--topology`` names: v5e:4x4, v5p:4x4x8, gpu:1xrtx4090."""

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
    # HBM as libtpu counts it when a program is too large ("of 15.75G hbm"), of the 16, 95 and 32 GB
    # of cloud.google.com/tpu/docs/v5e, v5p and v6e, which give the peaks (197, 459 and 918 TFLOP/s)
    # and the shapes, too. Hosts: the machine types of 4 chips, which slices of several hosts are
    # made of: ct5lp-hightpu-4t (112 vCPUs: docs/v5e), ct6e-standard-4t (180: docs/v6e) and
    # ct5p-hightpu-4t (208: GKE's autoscaler, which knows its machine types).
    "v5e": Chip("tpu v5e", int(15.75 * GIB), per_host=4, host_cores=112, dimensions=2),
    "v5p": Chip("tpu v5", int(95.74 * GIB), per_host=4, host_cores=208, dimensions=3),
    "v6e": Chip("tpu v6e", int(31.25 * GIB), per_host=4, host_cores=180, dimensions=2),
    # Memory and dense bf16 peaks: NVIDIA's data sheets (A100; H100 and H200 SXM; DGX B200: 1,440 GB
    # for 8). Cores: a2-highgpu-8g, a2-ultragpu-8g, a3-highgpu-8g, a3-ultragpu-8g and a4-highgpu-8g,
    # cloud.google.com/compute/docs/gpus.
    "a100_40gb": Chip("a100", int(JAX_SHARE * 40e9), per_host=8, host_cores=96),
    "a100": Chip("a100", int(JAX_SHARE * 80e9), per_host=8, host_cores=96),
    "h100": Chip("h100", int(JAX_SHARE * 80e9), per_host=8, host_cores=208),
    "h200": Chip("h200", int(JAX_SHARE * 141e9), per_host=8, host_cores=224),
    "b200": Chip("b200", int(JAX_SHARE * 180e9), per_host=8, host_cores=224),
    # NVIDIA's Ada architecture paper, appendix A (bf16 with float32 sums). Cores: an assumption, of
    # a desktop with 8 cores of two threads each.
    "rtx4090": Chip("rtx 4090", int(JAX_SHARE * 24e9), per_host=1, host_cores=16),
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
    if "a100" in kind and "80gb" not in kind:
        return CHIPS["a100_40gb"]
    gpus = (chip for name, chip in CHIPS.items() if not chip.dimensions and name != "a100_40gb")
    return next((chip for chip in gpus if re.search(rf"\b{chip.kind}\b", kind)), None)
