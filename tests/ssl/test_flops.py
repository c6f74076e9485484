"""Counted FLOPs against XLA's own count, and against published numbers."""

import jax
import jax.numpy as jnp
import pytest

from dinojax.models.flops import backbone_flops, head_flops
from dinojax.models.head import DinoHead
from dinojax.models.presets import get_preset
from dinojax.models.projection import Projection
from dinojax.models.vit import VisionTransformer
from dinojax.precision import POLICIES
from dinojax.ssl.flops import image_flops, matching_flops
from dinojax.ssl.forward import SslModel, student_forward, teacher_forward
from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.matching import MatchingModel, projected

F32 = POLICIES["float32"]
WIDTH, BATCH, LOCALS, MASKED = 256, 2, 3, 10


def make_model(**changes) -> SslModel:
    """One layer: XLA counts the body of a scan once, whatever its length."""
    fields = {"embed_dim": WIDTH, "depth": 1, "num_heads": 4, "n_storage_tokens": 4, **changes}
    return SslModel(
        VisionTransformer(precision=F32, **fields),
        DinoHead(512, F32, hidden_dim=384, bottleneck_dim=64),
        DinoHead(1024, F32, hidden_dim=256, bottleneck_dim=64),
    )


def make_inputs() -> StepInputs:
    return StepInputs(
        jnp.zeros((2, BATCH, 96, 96, 3)),
        jnp.zeros((LOCALS, BATCH, 48, 48, 3)),
        jnp.zeros((1, 2 * BATCH, 36), bool),
        jnp.arange(MASKED * BATCH)[None],
        jnp.zeros((1, MASKED * BATCH)),
        (None, None),
    )


def xla_flops(function, *arguments) -> float:
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def step(model, student, teacher, inputs):
    """Outputs of the teacher, and gradients of the student."""

    def total(student):
        return sum(x.sum() for x in jax.tree.leaves(student_forward(model, student, inputs)))

    return jax.grad(total)(student), teacher_forward(model, teacher, inputs)


@pytest.mark.parametrize(
    "ffn",
    [{}, pytest.param({"ffn_layer": "swiglu64", "ffn_ratio": 6.0}, marks=pytest.mark.slow)],
)
def test_train_step_is_what_xla_counts(ffn):
    model = make_model(**ffn)
    params = jax.eval_shape(model.init, jax.random.key(0))
    counted = image_flops(
        model,
        global_px=96,
        local_px=48,
        local_crops=LOCALS,
        masked_patches=float(MASKED),
    )
    measured = xla_flops(lambda s, t, i: step(model, s, t, i), params, params, make_inputs())
    assert BATCH * counted.total == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("hidden_dim", [None, 320])
def test_matching_is_what_xla_counts(hidden_dim):
    """Of a wider teacher, on smaller crops."""
    teacher = make_model(embed_dim=2 * WIDTH).backbone
    projection = Projection(2 * WIDTH, F32, hidden_dim)
    model = MatchingModel(make_model().backbone, projection, projection.clone())
    frozen = MatchingModel(teacher)

    def step(student, teacher, inputs):
        def total(student):
            return sum(x.sum() for x in projected(model, student, inputs))

        crops = inputs.global_crops[:, :, :48, :48].reshape(1, 2 * BATCH, 48, 48, 3)
        return jax.grad(total)(student), frozen.backbone.apply({"params": teacher}, crops)

    params = jax.eval_shape(model.init, jax.random.key(0))
    theirs = jax.eval_shape(frozen.init, jax.random.key(0))["backbone"]
    counted = matching_flops(model, frozen, global_px=96, teacher_px=48)
    measured = xla_flops(step, params, theirs, make_inputs())
    assert BATCH * counted.total == pytest.approx(measured, rel=0.1)
    shared = matching_flops(model, frozen, global_px=96, teacher_px=48, students=4)
    assert counted.teacher_backbone == 4 * shared.teacher_backbone


@pytest.mark.parametrize("image_px", [64, 192])
def test_forward_is_what_xla_counts(image_px):
    backbone = make_model().backbone
    images = jnp.zeros((1, 2, image_px, image_px, 3))
    params = jax.eval_shape(backbone.init, jax.random.key(0), images)
    measured = xla_flops(backbone.apply, params, images)
    assert 2 * backbone_flops(backbone, image_px) == pytest.approx(measured, rel=0.1)


def test_published_models():
    """ViT-L/16 at 224 px: 61.6 G multiply-adds with CLS only (arXiv:2104.10270, table 1)."""
    fields = get_preset("vitl16").model | {"n_storage_tokens": 0}
    flops = backbone_flops(VisionTransformer(precision=F32, **fields), 224)
    assert flops / 2 == pytest.approx(61.6e9, rel=0.01)


def test_depth_and_drop_path_scale():
    def flops(depth=1, rate=0.0, locals_=8):
        return image_flops(
            make_model(depth=depth),
            global_px=96,
            local_px=48,
            local_crops=locals_,
            masked_patches=0.0,
            drop_path_rate=rate,
        ).total

    layer = flops(depth=2) - flops(depth=1)
    assert flops(depth=12) == pytest.approx(flops(depth=1) + 11 * layer)
    # A quarter of the student's layers is saved, none of the teacher's.
    backbone = make_model().backbone
    layers = {
        px: backbone_flops(backbone, px) - backbone_flops(backbone, px, drop_path_rate=1.0)
        for px in (96, 48)
    }
    saved = 0.25 * 3 * (2 * layers[96] + 8 * layers[48])
    assert flops() - flops(rate=0.25) == pytest.approx(saved)


def test_heads_count_each_of_their_layers():
    head = DinoHead(7, F32, hidden_dim=5, bottleneck_dim=3, layers=3)
    assert head_flops(head, 2) == 2 * (2 * 5 + 5 * 5 + 5 * 3 + 3 * 7)
    assert head_flops(head.clone(layers=1), 2) == 2 * (2 * 3 + 3 * 7)


@pytest.mark.parametrize(
    ("name", "giga"), [("tiny", 4.5), ("small", 8.7), ("base", 15.4), ("large", 34.4)]
)
def test_convnext_as_published(name, giga):
    """Multiply-adds at 224 px of arXiv:2201.03545, table 9 (with a classifier of under 0.1 %)."""
    model = get_preset(f"convnext_{name}").build(F32)
    assert backbone_flops(model, 224) / 2e9 == pytest.approx(giga, abs=0.05)


def test_parts_of_an_image():
    """The student costs three passes over all crops, the teacher one over global crops."""
    model = make_model()
    sizes = {"global_px": 96, "local_px": 48, "local_crops": LOCALS, "masked_patches": 5.0}
    parts = image_flops(model, **sizes)
    assert parts.total == sum(parts)
    assert parts.teacher_backbone == 2 * backbone_flops(model.backbone, 96)
    students = parts.teacher_backbone + LOCALS * backbone_flops(model.backbone, 48)
    assert parts.student_backbone == 3 * students
    local = LOCALS * head_flops(model.dino_head, WIDTH)
    assert parts.student_heads == 3 * (parts.teacher_heads + local)
