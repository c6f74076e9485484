"""The device mesh and how arrays lie on it: axes data, fsdp and tensor, rules by path and shape.

The batch is split over data and fsdp together. Parameters are replicated over data and split over
fsdp along their largest suitable axis; the stacked layer axis is never split, because a scan reads
one layer at a time.
"""

import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dinojax.trees import map_named
from dinojax.typing import PyTree

BATCH_AXES = ("data", "fsdp")
STACKED = re.compile(r"(^|/)blocks/")
SMALL = 2**12
"""Leaves with fewer elements are replicated: gathering them would cost more than they weigh."""


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,  # type: ignore[valid-type]
) -> Mesh:
    """A mesh over all devices; one axis may be -1 and takes what the others leave.

    Raises:
        ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh data={data}, fsdp={fsdp}, tensor={tensor} does not fit {len(devices)} devices; "
            f"use data=-1 with fsdp and tensor dividing {len(devices)}"
        )
    # Auto: the partitioner propagates shardings. Explicit axes would ask every op for its own.
    axes = (*BATCH_AXES, "tensor")
    grid = np.asarray(devices).reshape(sizes)
    return Mesh(grid, axes, axis_types=(AxisType.Auto,) * 3)


def batch_shards(mesh: Mesh) -> int:
    """Number of parts that the batch is split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def current_batch_shards() -> int:
    """Inside jit: `batch_shards` of the mesh in use; 1 without one."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape.get(axis, 1) for axis in BATCH_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def shardings(mesh: Mesh, tree: PyTree) -> PyTree:
    """A `NamedSharding` for every leaf of a parameter-like tree (state, moments, teachers)."""

    def rule(path: str, leaf) -> NamedSharding:
        shape = tuple(leaf.shape)
        size = mesh.shape["fsdp"]
        first = 1 if STACKED.search(path) else 0
        fitting = [i for i in range(first, len(shape)) if shape[i] % size == 0]
        if size == 1 or math.prod(shape) < SMALL or not fitting:
            return replicated(mesh)
        axis = max(fitting, key=lambda i: (shape[i], i))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return map_named(rule, tree)


def split_batch(tree: PyTree, axis: int = 0) -> PyTree:
    """Inside jit: ask that `axis` of every leaf lie over data and fsdp. Nothing without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    spec = PartitionSpec(*[None] * axis, BATCH_AXES)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def gather(tree: PyTree) -> PyTree:
    """Inside jit: ask that every leaf be whole on each device. Nothing without a mesh.

    For sharded weights at their use, in the dtype of the product: this is FSDP's gather.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec()), tree)
