"""Predicted bytes: the state exactly, the rest in the right directions and near what compiles."""

import functools

import jax
import pytest
from recipe_files import recipe_dict

from dinojax import mesh as meshes
from dinojax.build import step as build
from dinojax.config import default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.planning.head_memory import output_bytes
from dinojax.planning.memory import Memory, high_points, predict_memory
from dinojax.planning.mesh_choice import largest_resolution
from dinojax.planning.streams import MeshShape

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


def test_fused_losses_keep_the_gradients_of_prototypes_alone():
    given, shape = config(), MeshShape(1, 16, 2)
    state = jax.eval_shape(build.build_init(given))
    images, prototypes = 2048 // 16, 65_536 // 2
    gradients = output_bytes(given, images, 2, fused=True)
    assert gradients == 2 * 4 * 256 * prototypes
    whole, fused = (high_points(given, shape, state, fused=x)["losses"] for x in (False, True))
    assert whole.logits - fused.logits == output_bytes(given, images, 2) - gradients


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


@pytest.mark.parametrize(
    ("name", "shape", "overrides", "compiled"),
    [
        ("dinov2_vitg14", (32, 2, 1), {}, 20.82),
        ("dinov3_vitl16_in1k", (16, 2, 2), {}, 13.60),
        ("dinov3_vit7b16_gram_anchor", (4, 32, 1), {}, 20.50),
        ("dinov3_vit7b16_high_res_adapt", (4, 32, 1), {}, 63.67),
        (
            "dinov3_vitl16_lvd1689m_distilled",
            (1, 64, 1),
            {"train.draw_group_size": 15},
            18.93,
        ),
        ("dinov3_multi_distilled", (1, 64, 1), {"train.draw_group_size": 15}, 18.24),
        ("dinov3_convnext_distilled:tiny", (1, 64, 1), {}, 34.15),
        ("dinov3_convnext_distilled:large", (128, 1, 1), {}, 56.53),
    ],
)
def test_recipes_near_what_was_compiled(name, shape, overrides, compiled):
    """Rows of the table in docs/plan.md, of the resolution that needs most."""
    given = recipe_dict(name)
    given.update_from_flattened_dict(overrides)
    given, shape = parse_config(given), MeshShape(*shape)
    state = jax.eval_shape(build.build_init(given))
    memory = predict_memory(largest_resolution(given, shape, state), shape, state)
    assert memory.total / GIB == pytest.approx(compiled, rel=0.1)


def test_long_sequences_cost_what_their_length_says():
    """Not its square: attention in blocks. Of 32 images with local crops of the same length."""
    shape, layer = MeshShape(1, 16, 1), {}
    for side in (768, 1536):
        given = config(
            student__attention_backend="reference",
            train__batch_size=512,
            crops__global_crops_size=side,
            crops__local_crops_number=0,
            student__drop_path_rate=0.0,
        )
        state = jax.eval_shape(build.build_init(given))
        layer[side] = high_points(given, shape, state)["backward"].layer
    assert layer[1536] < 5 * layer[768]


def test_gram_anchoring_adds_a_teacher_and_its_similarities():
    keys = {"gram__use_loss": True, "gram__load_ema_step": 0, "train__batch_size": 2048}
    plain, gram = at_losses(), at_losses(**keys, gram__img_level=True)
    assert gram.teacher == pytest.approx(1.9 * plain.teacher, rel=0.1)
    # 256 crops of 196 patches, in rows of a TPU's tiles: both sides, difference and gradient.
    assert gram.logits - plain.logits == 256 * 196 * 256 * 4 * 4
    # Or two groups of 128 crops each.
    assert at_losses(**keys).logits - plain.logits == 2 * (128 * 196) ** 2 * 4 * 4
    given = config(**keys, crops__gram_teacher_crops_size=448)
    points = high_points(given, MeshShape(1, 16, 1), jax.eval_shape(build.build_init(given)))
    without = config(**keys)
    same = high_points(without, MeshShape(1, 16, 1), jax.eval_shape(build.build_init(without)))
    assert points["teachers"].layer > 3.5 * same["teachers"].layer


def test_kernels_hold_no_logits():
    """Of 1,029 tokens, so that logits in float32 would be 16 heads times that squared."""
    sizes = {"crops__global_crops_size": 512, "train__batch_size": 512}
    layer = {
        backend: predict(student__attention_backend=backend, **sizes).layer
        for backend in ("reference", "auto")
    }
    saved = layer["reference"] - layer["auto"]
    kept = int(512 // 16 * 2 * 0.7)
    assert saved > kept * 16 * 1029 * 1152 * 4
