"""Which kind of chip a computation is traced for, and kernels that run on each device's part."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from dinojax.kernels.rope import RopeTables
from dinojax.mesh import BATCH_AXES, current_batch_shards, on_each_device
from dinojax.typing import Array


def platform() -> str:
    """One of tpu, gpu and cpu: that of the mesh in use, which may be one to compile for only."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.abstract_device is not None:
        return mesh.abstract_device.platform
    return jax.default_backend()


class Gpu(NamedTuple):
    """Its name and its CUDA compute capability, e.g. 9.0; 0 of one that has none."""

    kind: str
    capability: str


def gpu() -> Gpu | None:
    """The GPUs that a computation is traced for, which are all alike; None if it is for others."""
    if platform() != "gpu":
        return None
    device = jax.local_devices()[0]
    capability = str(getattr(device, "compute_capability", "0"))  # of AMD's it is a name
    return Gpu(device.device_kind, capability if capability[0].isdigit() else "0")


def per_device(call: Callable[..., Any], arrays: tuple[Array, ...], rope: RopeTables | None) -> Any:
    """``call(*arrays, rope)`` on each device's ``[G, b, N, H, d]``; what it returns lies likewise.

    The partitioner cannot look into a kernel.
    """
    spec = _split(arrays[0].shape)
    if spec is None:
        return call(*arrays, rope)
    # One table for all groups, or one for each.
    table = PartitionSpec(spec[0] if rope is not None and len(rope.sin) > 1 else None)
    return on_each_device(call, (*[spec] * len(arrays), table), spec)(*arrays, rope)


def shape_on_one(shape: Sequence[int]) -> tuple[int, ...]:
    """What `per_device` gives each device of ``[G, b, N, H, d]``."""
    spec = _split(shape)
    if spec is None:
        return tuple(shape)
    return NamedSharding(jax.sharding.get_abstract_mesh(), spec).shard_shape(tuple(shape))


def _split(shape: Sequence[int]) -> PartitionSpec | None:
    """Groups over data and fsdp or, where they do not divide, images; heads over tensor.

    None on a single device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return None
    groups, images, _, heads, _ = shape
    shards, split = current_batch_shards(), (None, None)
    if groups % shards == 0:
        split = (BATCH_AXES, None)
    elif images % shards == 0:
        split = (None, BATCH_AXES)
    # Named also where it has one part: what is not named, gradients are summed over.
    over_tensor = "tensor" if heads % mesh.shape["tensor"] == 0 else None
    return PartitionSpec(*split, None, over_tensor, None)
