"""Predicted bytes: the state exactly, the rest in the right directions and near what compiles."""

import functools

import jax
import pytest

from dinojax import build
from dinojax import mesh as meshes
from dinojax.config import default_config, parse_config
from dinojax.planning.memory import Memory, high_points, predict_memory
from dinojax.planning.streams import MeshShape
from dinojax.shrink import shrink

GIB = 2**30


@functools.cache
def config(**overrides):
    """Of IN-1k's size; nothing is computed."""
    config = default_config()
    config.student.arch = "vitl16"
    config.train.batch_size, config.train.draw_group_size = 2048, 64
    for name, value in overrides.items():
        *parents, last = name.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return parse_config(config)


def predict(shape=(1, 16, 1), **overrides) -> Memory:
    given = config(**overrides)
    return predict_memory(given, MeshShape(*shape), jax.eval_shape(build.build_init(given)))


def at_losses(shape=(1, 16, 1), **overrides) -> Memory:
    given = config(**overrides)
    return high_points(given, MeshShape(*shape), jax.eval_shape(build.build_init(given)))["losses"]


def test_state_is_what_lies_on_a_device():
    small = shrink(default_config())
    small.train.batch_size = 16
    small.train.draw_group_size = 2
    given, mesh = parse_config(small), meshes.make_mesh(2, 2, 2)
    init = build.build_init(given)
    shapes = jax.eval_shape(init)
    with jax.set_mesh(mesh):
        state = jax.jit(init, out_shardings=meshes.shardings(mesh, shapes))()

    def held(tree) -> int:
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    memory = predict_memory(given, MeshShape(2, 2, 2), shapes)
    assert memory.student == held(state.student)
    assert memory.teacher == held(state.teacher)
    assert memory.moments == held(state.moments)


def test_levers_pull():
    """Each key of docs/memory.md makes its category smaller."""
    base = predict(student__remat="none")
    dots, full = predict(student__remat="dots"), predict(student__remat="full")
    assert base.activations > dots.activations > full.activations
    halves = predict(student__remat="dots", train__micro_batches=2)
    assert halves.activations == dots.activations // 2
    assert at_losses(train__prototype_chunk=2048).logits < at_losses().logits
    bf16 = predict(optim__moments_dtype="bfloat16")
    assert bf16.moments == pytest.approx(predict().moments / 2, rel=1e-3)
    assert predict((2, 8, 1)).student == pytest.approx(2 * predict((1, 16, 1)).student, rel=0.01)
    assert at_losses((1, 8, 2)).logits < at_losses((1, 8, 1)).logits
    more = predict(train__batch_size=4096)
    assert more.activations == 2 * predict().activations


def test_full_remat_keeps_the_layers_inputs_only():
    memory = predict(student__remat="full", student__n_storage_tokens=0)
    tokens = 2048 // 16 * (2 * 200 + 8 * 40)  # 197 and 37, in rows of a TPU's tiles
    assert memory.activations == 24 * tokens * 1024 * 2


@pytest.mark.parametrize(
    ("shape", "overrides", "compiled"),
    # The TPU compiler's peak, GiB (docs/plan.md); the same numbers, so that a change shows here.
    [
        ((1, 4, 1), {"train__batch_size": 512}, 10.59),
        ((1, 4, 1), {"train__batch_size": 768}, 14.21),
        ((16, 1, 1), {"train__batch_size": 2048}, 14.55),
    ],
)
def test_near_what_was_compiled(shape, overrides, compiled):
    recipe = {"student__n_storage_tokens": 0, "student__drop_path_rate": 0.3}
    memory = predict(shape, student__remat="full", **recipe, **overrides)
    assert memory.total / GIB == pytest.approx(compiled, rel=0.1)
