"""The device mesh of a run: what the configuration leaves open is chosen by predicted memory."""

import jax
from absl import logging
from jax.sharding import Mesh

from dinojax import mesh as meshes
from dinojax.build.loss import fused
from dinojax.config import Config
from dinojax.planning.mesh_choice import choose_mesh, shortfall
from dinojax.planning.topologies import chip_of


def run_mesh(config: Config) -> Mesh:
    """The mesh of `planning.mesh_choice` over all devices.

    Raises:
        ValueError: an impossible configuration, or one that no mesh of these devices has room for.
    """
    devices = jax.devices()
    chip = chip_of(devices[0].device_kind)
    hbm = None if chip is None else chip.hbm_bytes
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    choice = choose_mesh(config, len(devices), hbm, slices, fused=fused())
    logging.info("mesh %s: %s", dict(choice.shape._asdict()), choice.reason)
    if hbm is not None and choice.memory.total > hbm:
        logging.warning("%s", shortfall(config, choice.shape, choice.memory, hbm, fused=fused()))
    return meshes.make_mesh(*choice.shape)
