"""Mesh sizes, and where each array lies on eight devices."""

from unittest.mock import NonCallableMock

import hosts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dinojax import mesh as meshes


def struct(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1)),
        ({"data": 2, "fsdp": -1}, (2, 4, 1)),
        ({"data": 1, "fsdp": 4, "tensor": 2}, (1, 4, 2)),
        ({"data": 1, "fsdp": 2, "tensor": -1}, (1, 2, 4)),
    ],
)
def test_sizes(given, sizes):
    mesh = meshes.make_mesh(**given)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert tuple(mesh.shape.values()) == sizes
    assert meshes.batch_shards(mesh) == sizes[0] * sizes[1]


def test_some_devices_only():
    mesh = meshes.make_mesh(fsdp=2, devices=jax.devices()[:4])
    assert tuple(mesh.shape.values()) == (2, 2, 1)


@pytest.mark.parametrize(
    "given", [{"data": 3}, {"fsdp": 3}, {"data": -1, "fsdp": -1}, {"fsdp": 0}, {"data": 16}]
)
def test_error_names_sizes_and_devices(given):
    data, fsdp = given.get("data", -1), given.get("fsdp", 1)
    with pytest.raises(ValueError, match=rf"data={data}, fsdp={fsdp}, tensor=1 .* fit 8 devices"):
        meshes.make_mesh(**given)


def tpus(slices: int, side: int = 4):
    """Chips of v5e slices, `side` x `side` each, numbered along rows as TPU runtimes do."""
    return [
        NonCallableMock(
            spec=jax.Device,
            **{"platform": "tpu", "device_kind": "TPU v5 lite", "core_on_chip": 0},
            **{"id": (i * side + y) * side + x, "coords": (x, y, 0), "slice_index": i},
            process_index=0,
        )
        for i in range(slices)
        for y in range(side)
        for x in range(side)
    ]


def test_neighbours_in_a_tpu_slice_are_neighbours_in_the_mesh():
    grid = meshes.device_grid((4, 4, 1), tpus(1))
    assert sorted(device.id for device in grid.flat) == list(range(16))
    for group in grid[:, :, 0]:
        x, y, _ = zip(*(device.coords for device in group), strict=True)
        assert len(set(x)) == 1 or len(set(y)) == 1


def test_only_replicas_span_tpu_slices():
    grid = meshes.device_grid((4, 4, 2), tpus(2))
    assert {device.slice_index for device in grid[:2].flat} == {0}
    assert {device.slice_index for device in grid[2:].flat} == {1}
    with pytest.raises(
        ValueError, match="data=3 is not a multiple of the 2 TPU slices; use data=2"
    ):
        meshes.device_grid((3, 4, 1), tpus(2))


def specs(mesh, tree):
    return jax.tree.map(lambda s: s.spec, meshes.shardings(mesh, tree))


def test_the_layer_axis_is_never_split():
    mesh = meshes.make_mesh(fsdp=8)
    tree = {
        # The layer axis is by far the largest, and the only one that 8 divides in the second leaf.
        "blocks": {"kernel": struct(512, 96, 64), "odd": struct(512, 75, 75)},
        "free": struct(512, 96, 64),
    }
    blocks = {"kernel": P(None, "fsdp"), "odd": P()}
    assert specs(mesh, tree) == {"blocks": blocks, "free": P("fsdp")}
    assert specs(mesh, {"student": {"backbone": tree}})["student"]["backbone"]["blocks"] == blocks
    # Only a path component called blocks is stacked.
    assert specs(mesh, {"myblocks": {"a": struct(4096, 5)}}) == {"myblocks": {"a": P("fsdp")}}


def test_largest_axis_that_fits_is_split():
    mesh = meshes.make_mesh(data=2, fsdp=4)
    tree = {"wide": struct(64, 256), "tall": struct(256, 64), "prime": struct(4099, 4)}
    expected = {"wide": P(None, "fsdp"), "tall": P("fsdp"), "prime": P(None, "fsdp")}
    assert specs(mesh, tree) == expected
    # Equal sizes: the last one, as an output axis.
    assert specs(mesh, {"square": struct(64, 64)}) == {"square": P(None, "fsdp")}


def test_small_leaves_and_single_shards_are_replicated():
    tree = {"large": struct(64, 64), "small": struct(63, 64), "scalar": struct()}
    expected = {"large": P(None, "fsdp"), "small": P(), "scalar": P()}
    assert specs(meshes.make_mesh(fsdp=8), tree) == expected
    assert specs(meshes.make_mesh(data=8), tree) == dict.fromkeys(tree, P())


def test_what_is_no_weight_of_a_product_is_not_split():
    """ViT-g's fused bias has 4,608 numbers, the 7B model's CLS token 4,096."""
    tree = {
        "blocks": {"qkv": {"kernel": struct(40, 64, 192), "bias": struct(40, 3, 24, 64)}},
        "embed": {name: struct(4, 4096) for name in ("cls_token", "storage_tokens", "pos_embed")},
    }
    mesh = meshes.make_mesh(data=1, fsdp=4, tensor=2)
    assert specs(mesh, tree) == {
        "blocks": {"qkv": {"kernel": P(None, "tensor", "fsdp"), "bias": P(None, None, "tensor")}},
        "embed": dict.fromkeys(tree["embed"], P()),
    }


def test_batch_lies_over_data_and_fsdp():
    mesh = meshes.make_mesh(data=2, fsdp=4)
    x = jax.device_put(jnp.arange(16.0).reshape(16, 1), meshes.batch_sharding(mesh))
    assert {shard.data.shape for shard in x.addressable_shards} == {(2, 1)}
    assert {float(s.data[0, 0]) for s in x.addressable_shards} == {2.0 * i for i in range(8)}
    assert jax.device_put(x, meshes.replicated(mesh)).is_fully_replicated


def test_one_process_brings_the_whole_batch():
    layout = meshes.BatchLayout(meshes.make_mesh(2, 2, 2), 8)
    assert layout.rows == tuple(range(8))
    whole = np.arange(24.0).reshape(8, 3)
    placed = layout.place(whole)
    np.testing.assert_array_equal(placed, whole)
    assert placed.sharding == meshes.batch_sharding(layout.mesh)


LAYOUTS = """
import sys
from dinojax.runtime import cluster
cluster.start(sys.argv[1], 2, int(sys.argv[2]))
import jax, numpy as np
from dinojax import mesh as meshes
a, b, c, d = jax.devices()  # two of each process
assert [device.process_index for device in (a, b, c, d)] == [0, 0, 1, 1]
for sizes, devices, batch in (
    ((4, 1, 1), (a, b, c, d), 8),
    ((4, 1, 1), (a, c, b, d), 8),
    ((2, 2, 1), (d, c, b, a), 8),
    ((2, 1, 2), (a, c, b, d), 4),
    ((1, 1, 4), (a, b, c, d), 2),
    ((3, 1, 1), (a, c, d), 9),
):
    layout = meshes.BatchLayout(meshes.make_mesh(*sizes, devices=devices), batch)
    whole = np.arange(2 * batch).reshape(batch, 2)
    placed = layout.place(whole[list(layout.rows)])
    assert placed.shape == whole.shape
    for shard in placed.addressable_shards:
        np.testing.assert_array_equal(shard.data, whole[shard.index])
    print(*layout.rows)
"""


def test_each_process_brings_the_rows_of_its_devices():
    """In whatever order they lie; processes that share rows bring the same."""
    port = hosts.free_port()
    commands = [["-c", LAYOUTS, f"localhost:{port}", str(process)] for process in range(2)]
    first, second = hosts.wait([hosts.launch(command, devices=2) for command in commands])
    assert first.code == second.code == 0, first.err + second.err
    shared = ["0 1 2 3", "0 1"]
    assert first.out.splitlines() == ["0 1 2 3", "0 1 4 5", "4 5 6 7", *shared, "0 1 2"]
    assert second.out.splitlines() == ["4 5 6 7", "2 3 6 7", "0 1 2 3", *shared, "3 4 5 6 7 8"]


def test_split_batch_inside_jit():
    mesh = meshes.make_mesh(data=2, fsdp=4)
    split = jax.jit(lambda x: meshes.split_batch(x, axis=1))
    x = jnp.arange(32.0).reshape(2, 16)
    with jax.set_mesh(mesh):
        out = split(jax.device_put(x, meshes.replicated(mesh)))
    assert out.sharding.shard_shape(out.shape) == (2, 2)
    assert (meshes.split_batch(x) == x).all(), "without a mesh nothing happens"


def test_gather_inside_jit():
    mesh = meshes.make_mesh(data=2, fsdp=2, tensor=2)
    x = jnp.arange(64 * 128.0).reshape(64, 128)
    with jax.set_mesh(mesh):
        split = jax.device_put(x, jax.NamedSharding(mesh, P("tensor", "fsdp")))
        gather = jax.jit(meshes.gather, static_argnums=1)
        assert gather(split, None).is_fully_replicated
        assert gather(split, 0).sharding.spec == P("tensor")
    assert (meshes.gather(x) == x).all(), "without a mesh nothing happens"


def test_tensor_axis_by_path():
    """Heads, hidden features and prototypes; fsdp takes the largest axis that is left."""
    mesh = meshes.make_mesh(data=1, fsdp=2, tensor=4)
    block = {
        "attn": {
            "qkv": {"kernel": struct(3, 64, 3, 4, 16), "bias": struct(3, 3, 4, 16)},
            "proj": {"kernel": struct(3, 64, 64), "bias": struct(3, 64)},
        },
        "mlp": {
            "fc1": {"kernel": struct(3, 64, 256), "bias": struct(3, 256)},
            "fc2": {"kernel": struct(3, 256, 64)},
        },
    }
    assert specs(mesh, {"blocks": block})["blocks"] == {
        "attn": {
            "qkv": {"kernel": P(None, "fsdp", None, "tensor"), "bias": P(None, None, "tensor")},
            "proj": {"kernel": P(None, "tensor", "fsdp"), "bias": P()},
        },
        "mlp": {
            "fc1": {"kernel": P(None, "fsdp", "tensor"), "bias": P(None, "tensor")},
            "fc2": {"kernel": P(None, "tensor", "fsdp")},
        },
    }
    head = {"mlp_0": {"kernel": struct(64, 128)}, "last_layer": struct(32, 512)}
    assert specs(mesh, head) == {
        "mlp_0": {"kernel": P(None, "fsdp")},
        "last_layer": P("fsdp", "tensor"),
    }
    odd = {"blocks": {"attn": {"qkv": {"kernel": struct(3, 64, 3, 6, 16)}}}}
    assert specs(mesh, odd)["blocks"]["attn"]["qkv"]["kernel"] == P(None, "fsdp")
