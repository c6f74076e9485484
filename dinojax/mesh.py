"""The device mesh and how arrays lie on it: axes data, fsdp and tensor, rules by path and shape.

The batch is split over data and fsdp together. Parameters are replicated over data, those of
`TENSOR_RULES` split over tensor, and then over fsdp along their largest axis that is left; the
stacked layer axis is never split, because a scan reads one layer at a time. With data over slices
or nodes and fsdp inside them, weights are gathered over the fast links only (hybrid sharding).

The order of the devices follows the interconnect, not the processes, so a process may hold any rows
of a batch. `BatchLayout` asks the sharding which, and is the only place that knows.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from dinojax.trees import map_named
from dinojax.typing import Array, PyTree

BATCH_AXES = ("data", "fsdp")
STACKED = re.compile(r"(^|/)(blocks|stage_\d)/")
TENSOR_RULES = {
    re.compile(r"(^|/)qkv/(kernel|bias)$"): -2,  # heads
    re.compile(r"(^|/)attn/proj/kernel$"): -2,  # the heads' outputs
    re.compile(r"(^|/)mlp/(fc1|w1|w2)/(kernel|bias)$"): -1,  # hidden features
    re.compile(r"(^|/)mlp/(fc2|w3)/kernel$"): -2,
    re.compile(r"(^|/)stage_\d/pwconv1/(kernel|bias)$"): -1,
    re.compile(r"(^|/)stage_\d/pwconv2/kernel$"): -2,
    re.compile(r"(^|/)last_layer(_gain)?$"): -1,  # prototypes
}
"""Path -> the axis that is split over tensor (Megatron-LM, arXiv:1909.08053, section 3): layers
come in pairs, the first split by its outputs and the second by its inputs, with one sum after it.
The modules name the same axes where they use the weights."""
SMALL = 2**12
"""Leaves with fewer elements are replicated: gathering them would cost more than they weigh."""
NOT_GATHERED = re.compile(r"(^|/)(bias|gamma|scale|\w+_tokens?|pos_embed|last_layer_gain)$")
"""What no product has as its weight: `gather` never sees it, and it is not large."""


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,  # type: ignore[valid-type]
) -> Mesh:
    """A mesh over all devices; one axis may be -1 and takes what the others leave.

    Raises:
        ValueError: the sizes do not multiply to the number of devices, or `data` does not to that
            of TPU slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = fill_sizes(len(devices), data, fsdp, tensor)
    # Auto: the partitioner propagates shardings. Explicit axes would ask every op for its own.
    axes = (*BATCH_AXES, "tensor")
    return Mesh(device_grid(sizes, devices), axes, axis_types=(AxisType.Auto,) * 3)


def fill_sizes(devices: int, data: int, fsdp: int, tensor: int) -> tuple[int, int, int]:
    """The sizes of the axes; one may be -1 and takes what the others leave.

    Raises:
        ValueError: they do not multiply to `devices`.
    """
    sizes = [data, fsdp, tensor]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and devices % known == 0:
        sizes[sizes.index(-1)] = devices // known
    if min(sizes) < 1 or math.prod(sizes) != devices:
        raise ValueError(
            f"mesh data={data}, fsdp={fsdp}, tensor={tensor} does not fit {devices} devices; "
            f"use data=-1 with fsdp and tensor dividing {devices}"
        )
    return sizes[0], sizes[1], sizes[2]


def device_grid(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:  # type: ignore[valid-type]
    """Devices `[data, fsdp, tensor]`: neighbours in the last axes are near in the interconnect.

    TPU slices are joined by the data centre's network only, so replicas are all that spans them.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    options = {"devices": devices, "allow_split_physical_axes": True}
    if devices[0].platform != "tpu" or slices == 1:
        return mesh_utils.create_device_mesh(sizes, **options)
    data, *inside = sizes
    if data % slices:
        raise ValueError(
            f"mesh data={data} is not a multiple of the {slices} TPU slices; use data={slices} and "
            f"divide the {len(devices) // slices} devices of a slice among fsdp and tensor"
        )
    within = (data // slices, *inside)
    return mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), **options)


def batch_shards(mesh: Mesh) -> int:
    """Number of parts that the batch is split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def current_batch_shards() -> int:
    """Inside jit: `batch_shards` of the mesh in use; 1 without one."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape.get(axis, 1) for axis in BATCH_AXES)


def current_tensor_axis(size: int) -> str | None:
    """Inside jit: the name of the mesh's tensor axis if it splits an axis of this size."""
    parts = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
    return "tensor" if parts > 1 and size % parts == 0 else None


def on_each_device(
    fn: Callable[..., Any], in_specs: PyTree, out_specs: PyTree
) -> Callable[..., Any]:
    """Inside jit: `fn` of what lies on a device, for kernels, which no partitioner can split.

    Without a mesh it is `fn` itself.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return fn
    return jax.shard_map(fn, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


@dataclass(frozen=True)
class BatchLayout:
    """The rows of a batch on a mesh, and which of them this process has to bring.

    Attributes:
        mesh: over the devices of all processes.
        batch: rows over all of them, a multiple of `batch_shards`.
    """

    mesh: Mesh
    batch: int

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """What lies on this process's devices, ascending; other processes may hold the same."""
        parts = batch_sharding(self.mesh).addressable_devices_indices_map((self.batch,)).values()
        ranges = [range(*part[0].indices(self.batch)) for part in parts if part is not None]
        return tuple(sorted(set().union(*ranges)))

    def place(self, own: np.ndarray) -> jax.Array:
        """The global `[batch, ...]` array, to which this process brings `own`: its `rows`."""

        def part(index: Any) -> np.ndarray:
            first, last, _ = index[0].indices(self.batch)
            return own[self._places[first] : self._places[first] + last - first]

        shape = (self.batch, *own.shape[1:])
        return jax.make_array_from_callback(shape, batch_sharding(self.mesh), part)

    @cached_property
    def _places(self) -> dict[int, int]:
        return {row: place for place, row in enumerate(self.rows)}


def shardings(mesh: Mesh | AbstractMesh, tree: PyTree) -> PyTree:
    """A `NamedSharding` for every leaf of a parameter-like tree (state, moments, teachers)."""

    def rule(path: str, leaf) -> NamedSharding:
        shape, axis = tuple(leaf.shape), tensor_axis(path)
        whole = NOT_GATHERED.search(path) is not None
        if not STACKED.search(path):
            return NamedSharding(mesh, weight_spec(mesh, shape, axis, whole=whole))
        layer = weight_spec(mesh, shape[1:], axis, whole=whole)
        return NamedSharding(mesh, PartitionSpec(None, *layer) if layer else PartitionSpec())

    return map_named(rule, tree)


def weight_spec(
    mesh: Mesh | AbstractMesh,
    shape: Sequence[int],
    tensor_axis: int | None = None,
    *,
    whole: bool = False,
) -> PartitionSpec:
    """How one layer's weight of this shape, and its gradient, lie on the mesh.

    `tensor_axis` over tensor where it divides; the largest of the other axes that fsdp divides over
    fsdp, unless the weight is small, a vector or meant to be `whole`.
    """
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    spec: list[str | None] = [None] * len(shape)
    if tensor > 1 and tensor_axis is not None and shape[tensor_axis] % tensor == 0:
        spec[tensor_axis] = "tensor"
    fitting = [i for i, size in enumerate(shape) if not spec[i] and size % fsdp == 0]
    if fsdp > 1 and len(shape) > 1 and not whole and math.prod(shape) >= SMALL and fitting:
        spec[max(fitting, key=lambda i: (shape[i], i))] = "fsdp"
    while spec and spec[-1] is None:
        spec.pop()
    return PartitionSpec(*spec)


def tensor_axis(path: str) -> int | None:
    """The axis of a parameter, from its end, that is split over tensor; None: none is."""
    return next((axis for rule, axis in TENSOR_RULES.items() if rule.search(path)), None)


def split_batch(tree: PyTree, axis: int = 0) -> PyTree:
    """Inside jit: ask that `axis` of every leaf lie over data and fsdp. Nothing without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    spec = PartitionSpec(*[None] * axis, BATCH_AXES)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def gather(weight: Array, tensor_axis: int | None = None, *, pinned: bool = False) -> Array:
    """Inside jit: ask for the whole weight on each device; `tensor_axis` alone stays split.

    At the use of a sharded weight, in the dtype of the product, this is FSDP's gather. Gradients
    need no word: they are summed to where the optimizer's moments lie. Nothing happens without a
    mesh.

    `pinned` says first how `weight` lies. Otherwise the TPU compiler gathers a float32 parameter
    and casts afterwards, twice the bytes. Not for the layers of a scan: it casts their slices
    early, and gathers that are pinned are no longer merged into one for all crop sizes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return weight
    spec = weight_spec(mesh, weight.shape, tensor_axis)
    if pinned:
        weight = jax.lax.with_sharding_constraint(weight, spec)
    kept = PartitionSpec(*(axis if axis == "tensor" else None for axis in spec))
    return jax.lax.with_sharding_constraint(weight, kept)
