"""The losses by kernels: what is summed where on eight devices, that nothing else travels, and what
the kernels move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import collectives
from jax.sharding import NamedSharding, PartitionSpec
from pallas_traffic import recorded

from dinojax import mesh as meshes
from dinojax.losses.chunked import Rows, TeacherRows
from dinojax.losses.fused import fused_dino_loss, fused_ibot_loss, fused_sinkhorn_center

F, K, TEMPERATURE = 6, 48, 0.05


def random(*shape: int, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def loss(features, prototypes, columns, real):
    """Of teacher features in the place of the student's; patches of the first crops."""
    rows = features[0].reshape(meshes.current_batch_shards(), -1, F)
    center = fused_sinkhorn_center(rows, columns, TEMPERATURE, real=real.reshape(rows.shape[:2]))
    teacher = TeacherRows(features[:2], columns, center, TEMPERATURE)
    patches = teacher._replace(features=features[:1])
    each = jnp.array([1, 1, 0.5])
    cls, crop_losses = fused_dino_loss(Rows(features, prototypes), teacher, each)
    weights = jnp.where(real, 0.5, 0)[None]
    patch = Rows(features[1:2], prototypes)
    return cls + fused_ibot_loss(patch, patches, weights, images=7), crop_losses


def test_eight_devices():
    with jax.enable_x64(True):
        features, real = random(3, 16, F, seed=0), np.arange(16) % 5 != 1
        given = (random(F, K, seed=1), random(F, K, seed=2), real)
        step = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        expected = jax.jit(step)(features, *given)
        mesh = meshes.make_mesh(data=2, fsdp=2, tensor=2)
        split = NamedSharding(mesh, PartitionSpec(None, meshes.BATCH_AXES))
        columns = NamedSharding(mesh, PartitionSpec(None, "tensor"))
        with jax.set_mesh(mesh):
            placed = [jax.device_put(x, columns) for x in given[:2]]
            arguments = (jax.device_put(features, split), *placed, real)
            program = jax.jit(step).lower(*arguments).compile()
            found = program(*arguments)
    for ours, alone in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, alone, rtol=0, atol=1e-12 * np.abs(alone).max())
    moved = collectives(program.as_text())
    assert {kind for kind, _ in moved} == {"all-reduce"}
    rows, columns = 16 // 4, K // 2  # of a device
    sums_of_rows = {(crops * rows,) for crops in (1, 2, 3)}
    gradients = {(F, columns), (3, rows, F), (rows, F)}
    assert {shape for _, shape in moved} == {(), (3,), (columns,), *sums_of_rows, *gradients}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("images", "patches", "columns", "width"),
    [
        (64, 3771, 65_536, 256),  # ViT-L on IN-1k
        (64, 3771, 32_768, 256),  # half of the prototypes on each device
        (32, 1886, 98_304, 384),  # 7B
        (2, 30, 1_000, 64),  # one tile of each kind
    ],
)
def test_declared_bytes_are_those_of_the_blocks(images, patches, columns, width, dtype):
    prototypes = jax.ShapeDtypeStruct((width, columns), dtype)
    cls = jax.ShapeDtypeStruct((10, images, width), dtype)
    masked = jax.ShapeDtypeStruct((1, patches, width), dtype)

    def losses(cls, masked, prototypes):
        def teacher(features):
            rows = features.reshape(1, -1, width)
            center = fused_sinkhorn_center(rows, prototypes, TEMPERATURE)
            return TeacherRows(features, prototypes, center, TEMPERATURE)

        both, weights = teacher(cls[:2]), jnp.ones(masked.shape[:2])
        dino, _ = fused_dino_loss(Rows(cls, prototypes), both, jnp.ones(10), ignore_diagonal=True)
        ibot = fused_ibot_loss(Rows(masked, prototypes), teacher(masked), weights, images=images)
        return dino + ibot

    with recorded() as calls:
        jax.eval_shape(jax.grad(losses, argnums=(0, 1, 2)), cls, masked, prototypes)
    assert {call.name for call in calls} == {"column_log_sums", "row_log_sums", "cross_entropy"}
    for call in calls:
        assert call.declared == pytest.approx(call.moved, rel=0.01), call.name
