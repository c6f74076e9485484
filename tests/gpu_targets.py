"""Attention compiled for GPUs that are not there.

`ptx_of_attention` starts this file as a program of its own, because Mosaic goes on to make code for
the first GPU that a process compiles for.
"""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from dinojax.kernels.attention_gpu import AMPERE, HOPPER, flash
from dinojax.kernels.rope import RopeTables

MACHINES = {"flash": HOPPER, "flash_mma": AMPERE}
SHARED_BYTES = {
    "8.0": 166912,
    "8.6": 101376,
    "8.9": 101376,
    "9.0": 232448,
    "10.0": 232448,
}
"""Of a block at most, by compute capability (CUDA C++ Programming Guide, Compute Capabilities)."""


def ptx_of_attention(
    backend: str, capability: str, shape: tuple[int, ...], dtype: str, tables: int
) -> str:
    """What the assembler gets for attention and its gradients, and takes.

    `shape` is ``[G, b, N, H, d]``; `tables` 0 is without RoPE.
    """
    pytest.importorskip("jax_plugins.xla_cuda13", reason='needs pip install "jax[cuda13]"')
    given = json.dumps([backend, capability, shape, dtype, tables])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "MOSAIC_GPU_DUMP_PTX": "1"}
    done = subprocess.run(
        [sys.executable, __file__, given], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def description(capability: str) -> str:
    """A GPU as XLA reads it; what does not matter here is as of an H100."""
    major, minor = capability.split(".")
    shared = SHARED_BYTES[capability]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {shared}
  shared_memory_per_core: {shared + 1024} core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 }} device_description_str: "NVIDIA GPU {capability}"
"""


def main(backend: str, capability: str, shape: list[int], dtype: str, tables: int) -> None:
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=description(capability), topology="1x1x1"
    )
    (device,) = topology.devices
    sharding = jax.sharding.SingleDeviceSharding(device)
    q = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    table = jax.ShapeDtypeStruct((tables, shape[2], shape[4]), jnp.float32, sharding=sharding)

    def run(q, k, v, rope, grad):
        out, gradients = jax.vjp(lambda *x: flash(*x, rope, machine=MACHINES[backend]), q, k, v)
        return out, gradients(grad)

    with jax.default_device(device):  # Mosaic makes code for its compute capability
        jax.jit(run).lower(q, q, q, RopeTables(table, table) if tables else None, q).compile()


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
