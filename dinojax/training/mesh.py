"""The device mesh of a run: what the configuration leaves open is chosen by predicted memory."""

import jax
from absl import logging
from jax.sharding import Mesh

from dinojax import mesh as meshes
from dinojax.build.loss import fused
from dinojax.config import Config
from dinojax.planning.mesh_choice import choose_mesh, shortfall
from dinojax.planning.topologies import chip_of
from dinojax.runtime.cluster import gather


def run_mesh(config: Config) -> Mesh:
    """The mesh of `planning.mesh_choice` over all devices, of the memory that JAX has of them.

    Raises:
        ValueError: an impossible configuration, or one that no mesh of these devices has room for.
    """
    devices = jax.devices()
    hbm = device_memory()
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    choice = choose_mesh(config, len(devices), hbm, slices, fused=fused())
    logging.info("mesh %s: %s", dict(choice.shape._asdict()), choice.reason)
    if hbm is not None and choice.memory.total > hbm:
        logging.warning("%s", shortfall(config, choice.shape, choice.memory, hbm, fused=fused()))
    return meshes.make_mesh(*choice.shape)


def device_memory() -> int | None:
    """Bytes that programs may use of a device, the least of all processes' first ones.

    The device itself says it, after XLA_PYTHON_CLIENT_MEM_FRACTION; else it is what its kind is
    known to have. None: unknown.
    """
    device = jax.local_devices()[0]
    chip, told = chip_of(device.device_kind), device.memory_stats() or {}
    own = told.get("bytes_limit") or (chip.hbm_bytes if chip is not None else 0)
    return min(map(int, gather("memory", str(own)))) or None
