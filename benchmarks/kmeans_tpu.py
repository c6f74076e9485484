"""What an iteration of k-means needs on TPUs that are not there: FLOPs, memory, what moves.

    python benchmarks/kmeans_tpu.py --topology=v5p:4x4x8 --rows=1000000000 --width=1024 \
        --clusters=100000 [--dtype=bfloat16] [--tensor=1] [--chunks=1]

Compiled by libtpu (``pip install -e '.[tpu]'``), not run. The cost model beside it is that of
products at the chip's peak and of one pass over the rows at its bandwidth; rows whose labels the
first products leave open, and the sums by cluster, come on top and only a device can tell them.
One JSON object.
"""

import argparse
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from dinojax import mesh as meshes
from dinojax.curation import kmeans
from dinojax.curation.assign import assign
from dinojax.curation.parts import BLOCK, Chunk
from dinojax.planning import hlo
from dinojax.planning.topologies import GIB, Topology, parse_topology
from dinojax.planning.tpu_compiler import tpu_devices

BANDWIDTH = {"v5e": 819e9, "v5p": 2765e9, "v6e": 1640e9}
"""HBM, bytes/s: cloud.google.com/tpu/docs."""


def described(args: argparse.Namespace, mesh: jax.sharding.Mesh) -> tuple[Chunk, kmeans.State]:
    """Shapes of a chunk and of the state."""
    whole = NamedSharding(mesh, jax.sharding.PartitionSpec())
    unit = BLOCK * meshes.batch_shards(mesh)
    count = -(-args.rows // args.chunks // unit) * unit

    def one(*shape: int, dtype: Any = jnp.float32, sharding: Any = whole) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    rows = one(count, args.width, dtype=args.dtype, sharding=meshes.batch_sharding(mesh))
    state = kmeans.State(one(args.clusters, args.width), one(), one(), one(), one(dtype=jnp.int32))
    return Chunk(rows, one(dtype=jnp.int32)), state


def compiled(function: Any, *given: Any) -> dict[str, Any]:
    """GiB per device, and what devices exchange in one call."""
    start = time.perf_counter()
    program = function.lower(*given).compile()
    memory = program.memory_analysis()
    found = hlo.collectives(program.as_text())
    return {
        "peak_gib": round(memory.peak_memory_in_bytes / GIB, 3),
        "temporary_gib": round(memory.temp_size_in_bytes / GIB, 3),
        "exchanged_gib": round(sum(one.times * one.bytes for one in found) / GIB, 3),
        "collectives": hlo.summary(found),
        "compile_s": round(time.perf_counter() - start, 1),
    }


def cost(args: argparse.Namespace, topology: Topology) -> dict[str, Any]:
    """Of an iteration: products in bfloat16 at the peak, and every row read once."""
    flops = 2 * args.rows * args.clusters * args.width
    moved = args.rows * args.width * jnp.dtype(args.dtype).itemsize
    kind = topology.name.partition(":")[0]
    return {
        "flops": flops,
        "products_s": flops / topology.devices / topology.chip.peak_flops,
        "rows_s": moved / topology.devices / BANDWIDTH[kind],
        "rows_gib_per_device": moved / topology.devices / GIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="v5p:4x4x8")
    parser.add_argument("--rows", type=int, default=1_000_000_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--clusters", type=int, default=100_000)
    parser.add_argument("--dtype", default="float32", help="of the rows on the devices")
    parser.add_argument("--tensor", type=int, default=1, help="parts that centres are split into")
    parser.add_argument("--chunks", type=int, default=1, help="that rows come in")
    args = parser.parse_args()
    topology = parse_topology(args.topology)
    mesh = meshes.make_mesh(-1, 1, args.tensor, devices=tpu_devices(topology))
    with jax.set_mesh(mesh):
        chunk, state = described(args, mesh)
        totals = jax.eval_shape(kmeans.no_totals, state.centers)
        whole = NamedSharding(mesh, jax.sharding.PartitionSpec())
        totals = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), totals
        )
        programs = {
            "add": compiled(kmeans.add, totals, chunk, state),
            "update": compiled(kmeans.update, state, totals),
            "assign": compiled(jax.jit(assign), chunk, state.centers),
        }
    print(json.dumps(vars(args) | cost(args, topology) | programs), flush=True)


if __name__ == "__main__":
    main()
