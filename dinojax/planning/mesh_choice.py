"""The mesh of a run: sizes from the configuration, or the least sharding that fits.

`train` and `plan` ask the same function, which sees the configuration, the number of devices and
their memory, and nothing else.
"""

import dataclasses
from typing import NamedTuple

import jax

from dinojax.build.step import build_init
from dinojax.config import Config
from dinojax.config.mesh_validation import check_mesh
from dinojax.config.resolutions import resolutions
from dinojax.config.validation import check_config
from dinojax.mesh import fill_sizes
from dinojax.planning.memory import Memory, predict_memory
from dinojax.planning.streams import MeshShape
from dinojax.planning.topologies import GIB
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students

ROOM = 0.9
"""Of the memory: the prediction errs, and evaluation and copies for checkpoints come on top."""


class Choice(NamedTuple):
    """A mesh and why it was taken."""

    shape: MeshShape
    memory: Memory
    """Predicted bytes per device at the highest point, of the largest resolution."""
    reason: str


def largest_resolution(
    config: Config, shape: MeshShape, state: TrainState | Students, *, fused: bool = False
) -> Config:
    """The resolution that is predicted to need the most memory."""
    return max(
        resolutions(config), key=lambda one: predict_memory(one, shape, state, fused=fused).total
    )


def choose_mesh(
    config: Config,
    devices: int,
    hbm_bytes: int | None,
    slices: int = 1,
    *,
    fused: bool = False,
) -> Choice:
    """Sizes of the axes; 0 in `config.mesh` means chosen here.

    Of the meshes whose shards the groups fill: the one with the fewest parts over tensor, then over
    fsdp, for which the predicted memory is at most `ROOM` of `hbm_bytes`; where there is none, the
    one that needs least, if that fits. With unknown memory, nothing more is split than it must be.
    Only data spans TPU `slices`. `fused`: see `head_memory.output_bytes`.

    Raises:
        ValueError: an impossible configuration; sizes that do not fit the devices or the groups; no
            choice that fits in memory.
    """
    check_config(config)
    state = jax.eval_shape(build_init(config))

    def memory_on(shape: MeshShape) -> Memory:
        largest = largest_resolution(config, shape, state, fused=fused)
        return predict_memory(largest, shape, state, fused=fused)

    given = config.mesh
    open_axes = [name for name in ("fsdp", "tensor") if getattr(given, name) == 0]
    if not open_axes:
        shape = _fixed(config, devices)
        check_mesh(config, batch_shards=shape.batch_shards, tensor=shape.tensor)
        return Choice(shape, memory_on(shape), "given by the configuration")
    tried: list[Choice] = []
    refused: ValueError | None = None
    for shape in _candidates(config, devices):
        if shape.data % slices:
            continue
        try:
            check_mesh(config, batch_shards=shape.batch_shards, tensor=shape.tensor)
        except ValueError as error:
            refused = refused or error
            continue
        memory = memory_on(shape)
        reason = f"the least sharding for {config.train.batch_size} images on {devices} devices"
        if hbm_bytes is None:
            return Choice(shape, memory, f"{reason}; their memory is unknown")
        if memory.total <= ROOM * hbm_bytes:
            needed = f"{memory.total / GIB:.2f} of {hbm_bytes / GIB:.2f} GiB"
            return Choice(shape, memory, f"{reason} that leaves room: {needed} predicted")
        tried.append(Choice(shape, memory, reason))
    if not tried:
        raise refused or ValueError(
            f"no mesh of {devices} devices has mesh.data={given.data}, mesh.fsdp={given.fsdp}, "
            f"mesh.tensor={given.tensor}; use mesh.data=-1"
        )
    assert hbm_bytes is not None
    best = min(tried, key=lambda choice: choice.memory.total)
    if best.memory.total <= hbm_bytes:
        return best._replace(reason="needs the least memory of all, and most of what is there")
    raise ValueError(shortfall(config, best.shape, best.memory, hbm_bytes, fused=fused))


def shortfall(
    config: Config, shape: MeshShape, memory: Memory, hbm_bytes: int, *, fused: bool = False
) -> str:
    """What is missing, of what, and which keys give it."""
    parts = sorted(memory._asdict().items(), key=lambda item: -item[1])[:3]
    largest = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts)
    return (
        f"train.batch_size={config.train.batch_size} is predicted to need "
        f"{memory.total / GIB:.2f} GiB per device on data={shape.data} x fsdp={shape.fsdp} x "
        f"tensor={shape.tensor}: {(memory.total - hbm_bytes) / GIB:.2f} GiB more than its "
        f"{hbm_bytes / GIB:.2f} (largest: {largest}); {_remedies(config, fused)}"
    )


def _remedies(config: Config, fused: bool) -> str:
    keys = []
    if config.student.remat != "full":
        keys.append("student.remat='full'")
    keys.append(f"train.micro_batches={2 * config.train.micro_batches}")
    if config.train.prototype_chunk is None and not fused:
        keys.append("train.prototype_chunk=4096")
    return f"use {', '.join(keys)}, more devices or fewer images"


def _fixed(config: Config, devices: int) -> MeshShape:
    return MeshShape(*fill_sizes(devices, *dataclasses.astuple(config.mesh)))


def _candidates(config: Config, devices: int) -> list[MeshShape]:
    """All meshes that the given sizes allow, the least split first."""
    given = config.mesh
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    found = []
    for tensor in divisors if given.tensor == 0 else [given.tensor]:
        for fsdp in divisors if given.fsdp == 0 else [given.fsdp]:
            try:
                found.append(MeshShape(*fill_sizes(devices, given.data, fsdp, tensor)))
            except ValueError:
                continue
    return found
