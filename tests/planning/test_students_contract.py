"""What distillation moves: weights of each student, the teacher's once, and no activation."""

import jax
import pytest

from dinojax import mesh as meshes
from dinojax.build import step as build
from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.planning import hlo
from dinojax.planning.communication import predict_collectives
from dinojax.planning.memory import MeshShape
from dinojax.training.compiled_step import compile_step

MESH = MeshShape(2, 4, 1)
LAYERS, TEACHER_LAYERS = 2, 3
WEIGHTS = 4
"""Of a layer: qkv, proj, fc1, fc2."""
STUDENTS = ("a", "b")


def config(objective: str) -> Config:
    """Float32, because XLA's CPU backend makes it of bf16 collectives."""
    given = shrink(default_config())
    given.train.batch_size, given.train.draw_group_size = 16, 2
    given.distillation.teacher, given.distillation.objective = "random", objective
    given.distillation.backbone.embed_dim = 128
    given.distillation.backbone.depth, given.distillation.backbone.num_heads = TEACHER_LAYERS, 2
    given.distillation.students = tuple((name, ()) for name in STUDENTS)
    if objective == "features":
        given.crops.local_crops_number = 0
    else:
        for head in (given.distillation.dino_head, given.distillation.ibot_head):
            head.update(given.dino.head)
    return parse_config(given)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["features", "prototypes"])
def test_two_students_share_one_pass_of_the_teacher(objective):
    given, mesh = config(objective), meshes.make_mesh(*MESH)
    state = jax.eval_shape(build.build_init(given))
    with jax.set_mesh(mesh):
        on_mesh = jax.tree.map(
            lambda leaf, layout: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout),
            state,
            meshes.shardings(mesh, state),
        )
        found = hlo.collectives(compile_step(given, mesh, on_mesh).as_text())
    inside = [one for one in found if one.kind == "all-gather" and one.in_layers]
    passes = 2 * len(STUDENTS) * LAYERS + TEACHER_LAYERS
    assert sum(one.times for one in inside) == passes * WEIGHTS
    rows = predict_collectives(given, MESH, state)
    predicted = sum(
        row["bytes"] for row in rows if row["kind"] == "all-gather" and row["in_layer_loop"]
    )
    assert sum(one.times * one.bytes for one in inside) == predicted
    # Crops and tokens of one image alone would be wider than any weight outside the layers.
    others = [one for one in found if one.kind == "all-gather" and not one.in_layers]
    weights = {tuple(n for n in leaf.shape if n != 1) for leaf in jax.tree.leaves(state)}
    assert {one.shape for one in others} <= weights
    assert not {one.kind for one in found} & {"all-to-all", "collective-permute"}
