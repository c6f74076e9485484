"""The losses by kernels, compiled for four chips. Fails where libtpu is missing."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dinojax import mesh as meshes
from dinojax.losses.chunked import Rows, TeacherRows, columns_of
from dinojax.losses.chunks import per_shard
from dinojax.losses.fused import fused_dino_loss, fused_ibot_loss, fused_sinkhorn_center
from dinojax.planning.topologies import parse_topology
from dinojax.planning.tpu_compiler import tpu_devices

F, K, CROPS, IMAGES, PATCHES = 128, 16_384, 10, 256, 1000
"""Rows per device. Prototypes are fewer numbers than the logits of any one kind of rows."""
SHARDS = TENSOR = 2
ARRAY = re.compile(r"\b(?:f32|bf16)\[([\d,]+)\]")

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def as_in_a_run():
    """Elsewhere tests compile in haste."""
    hasty = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", hasty)


def step(cls, patches, dino, ibot, temperature):
    """Loss and gradients; the student is its own teacher."""
    rows = per_shard("V (Z b) F -> Z (V b) F", cls[:2])
    masked = per_shard("(Z g) M F -> Z (g M) F", patches)
    columns = [columns_of(x, cls) for x in (dino, ibot)]
    centers = [
        fused_sinkhorn_center(x, y, temperature)
        for x, y in zip((rows, masked), columns, strict=True)
    ]
    theirs = (
        TeacherRows(cls[:2], columns[0], centers[0], temperature),
        TeacherRows(patches, columns[1], centers[1], temperature),
    )

    def loss(cls, patches, dino, ibot):
        value, crop_losses = fused_dino_loss(
            Rows(cls, dino), theirs[0], jnp.ones(CROPS), ignore_diagonal=True
        )
        ones = jnp.ones(patches.shape[:2])
        value += fused_ibot_loss(Rows(patches, ibot), theirs[1], ones, images=2 * IMAGES)
        return value, crop_losses

    return jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(cls, patches, dino, ibot)


@pytest.mark.parametrize("chip", ["v5e", "v6e", "v5p"])
@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "default"), ("float32", "highest")])
def test_nothing_is_as_large_as_logits(chip, dtype, precision):
    topology = parse_topology({"v5p": "v5p:2x2x1"}.get(chip, f"{chip}:2x2"))
    mesh = meshes.make_mesh(1, SHARDS, TENSOR, devices=tpu_devices(topology))

    def array(shape: tuple[int, ...], dtype: str, *spec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec))
        )

    prototypes = array((F, K), "float32", *meshes.weight_spec(mesh, (F, K), -1))
    with jax.set_mesh(mesh), jax.default_matmul_precision(precision):
        program = jax.jit(step).lower(
            array((CROPS, SHARDS * IMAGES, F), dtype, None, meshes.BATCH_AXES),
            array((SHARDS, PATCHES, F), dtype, meshes.BATCH_AXES),
            prototypes,
            prototypes,
            array((), "float32"),
        )
        program = program.compile()
    text, memory = program.as_text(), program.memory_analysis()
    assert text.count('"tpu_custom_call"') >= 15
    logits = 2 * IMAGES * K // TENSOR  # of the teacher's CLS tokens, the smallest of all
    found = {tuple(map(int, dims.split(","))) for dims in ARRAY.findall(text)}
    assert max(map(math.prod, found)) < logits
    assert memory is not None and memory.temp_size_in_bytes < jnp.dtype(dtype).itemsize * logits
