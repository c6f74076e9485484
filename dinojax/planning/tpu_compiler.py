"""The train step compiled for TPUs that are not there, by libtpu's compiler on any machine."""

import os
import re
import time
from typing import NamedTuple

import jax

from dinojax import mesh as meshes
from dinojax.build.step import build_init
from dinojax.config import Config
from dinojax.planning import hlo
from dinojax.planning.streams import MeshShape
from dinojax.planning.topologies import GIB, Topology
from dinojax.training.compiled_step import compile_step

QUICK = -1.0
"""`exec_time_optimization_effort` of a compile that is read, not run. Of a ViT-L forward pass:
6 s of processor time instead of 20, and a fifth more temporary memory than the 0.0 of a run."""
TOO_LARGE = re.compile(
    r"Used ([\d.]+)([MG]) of [\d.]+[MG] hbm|temporaries \(([\d.]+)([MG])\) exceeds available HBM"
)
UNITS = {"M": 2**20, "G": GIB}


class Compiled(NamedTuple):
    """What the compiler says.

    Attributes:
        seconds: the compile took.
        hbm_bytes: per device, when most is in use, with the program itself. Where it does not fit,
            what the compiler complains of: it may be temporaries alone.
        fits: whether the compiler placed it.
        text: the program's HLO; None where it does not fit.
        bytes_moved: to and from HBM per device, every loop once; None where it does not fit.
    """

    seconds: float
    hbm_bytes: int
    fits: bool
    text: str | None
    bytes_moved: float | None

    @property
    def collectives(self) -> list[dict[str, str | int | bool]]:
        return hlo.summary(hlo.collectives(self.text or ""))


def tpu_devices(topology: Topology) -> list[jax.Device]:  # type: ignore[valid-type]
    """Devices to compile for; nothing can run on them.

    Raises:
        ValueError: libtpu is not installed, or does not know the topology.
    """
    from jax.experimental import topologies

    # It would ask the metadata server of a cloud machine, and refuse to be loaded twice.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    name = topology.name
    rows, columns, *_ = topology.shape
    host = [min(rows, 2), min(columns, 2), 1]  # four chips, or all of a smaller slice
    try:
        found = topologies.get_topology_desc(
            topology_name=name, platform="tpu", chips_per_host_bounds=host
        )
    except Exception as error:  # what jaxlib raises has no type of its own
        raise ValueError(
            f"no TPU compiler for {name}: {str(error).splitlines()[0]}; --compile needs libtpu, "
            f"which pip install 'jax[tpu]=={jax.__version__}' brings (no TPU is needed)"
        ) from error
    return list(found.devices)


def compile_for(
    config: Config, topology: Topology, shape: MeshShape, effort: float = QUICK
) -> Compiled:
    """Compile the train step of a configuration of one resolution.

    Raises:
        ValueError: see `tpu_devices`.
    """
    mesh = meshes.make_mesh(*shape, devices=tpu_devices(topology))
    state = jax.eval_shape(build_init(config))
    state = jax.tree.map(
        lambda leaf, layout: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout),
        state,
        meshes.shardings(mesh, state),
    )
    start = time.perf_counter()
    try:
        with jax.set_mesh(mesh):
            options = {"exec_time_optimization_effort": effort}
            program = compile_step(config, mesh, state, options)
    except jax.errors.JaxRuntimeError as error:
        size = TOO_LARGE.search(str(error))
        if size is None:
            raise
        number, unit = (group for group in size.groups() if group is not None)
        needed = int(float(number) * UNITS[unit])
        return Compiled(time.perf_counter() - start, needed, False, None, None)
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    assert memory is not None
    total = memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes
    costs = program.cost_analysis()
    assert costs is not None
    return Compiled(seconds, total, True, program.as_text(), costs["bytes accessed"])
