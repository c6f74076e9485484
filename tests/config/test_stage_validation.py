"""Keys of later stages that contradict each other are refused, and the advice works."""

from typing import Any

import pytest

from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.config.students import student_configs
from dinojax.config.validation import validate

GRAM = {"gram.use_loss": True, "gram.load_ema_step": 0}
HEADS = {
    f"distillation.{name}_head.{key}": value
    for name in ("dino", "ibot")
    for key, value in (("n_prototypes", 64), ("hidden_dim", 64), ("bottleneck_dim", 16))
}
DISTIL = {"distillation.teacher": "random", "distillation.backbone.arch": "vits16", **HEADS}
RECOVERY = {
    "init.from": "backbone.safetensors",
    "recovery.max_steps": 2,
    "recovery.warmup_steps": 1,
}
FEATURES = {
    "distillation.teacher": "random",
    "distillation.objective": "features",
    "distillation.backbone.arch": "vitl16",
    "crops.local_crops_number": 0,
}
TWO = {**DISTIL, "distillation.students": (("a", ()), ("b", (("student.embed_dim", 32),)))}


def config(keys: dict[str, Any]) -> Config:
    given = shrink(default_config())
    given.update_from_flattened_dict(keys)
    return parse_config(given)


@pytest.mark.parametrize(
    "keys",
    [
        GRAM,
        {"gram.use_loss": True, "gram.teacher": "ema"},
        {**GRAM, "gram.tokens_used": "masked", "gram.remove_neg": True},
        DISTIL,
        TWO,
        {**DISTIL, **GRAM},
        RECOVERY,
        {**RECOVERY, **GRAM, "recovery.seed_batches": 0, "recovery.open_below": 1.0},
        FEATURES,
        {
            **FEATURES,
            "distillation.backbone.patch_size": 8,
            "distillation.matching.projection_hidden_dim": 64,
            "distillation.students": (("a", ()), ("b", (("student.patch_size", 32),))),
        },
        {
            **DISTIL,
            "student.arch": "convnext_tiny",
            **{f"student.{key}": None for key in ("embed_dim", "depth", "num_heads")},
            "student.depths": (1, 1, 1, 1),
            "student.dims": (8, 16, 32, 64),
            "crops.teacher_to_student_resolution_scale": 2.0,
        },
    ],
    ids=lambda keys: ",".join(keys)[:40],
)
def test_what_fits(keys):
    validate(config(keys), batch_shards=1)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"gram.use_loss": True}, r"no Gram teacher; .* gram\.load_ema_step .* e\.g\. to 0"),
        (
            {**GRAM, "gram.teacher": "ema"},
            r"gram\.teacher='ema' is the EMA teacher itself.*load_ema_step",
        ),
        ({**GRAM, "gram.load_ema_step": -1}, r"gram\.load_ema_step=-1 must lie in 0\.\."),
        (
            {**GRAM, "gram.load_ema_step": 10**6},
            r"_step=1000000 must lie in 0.*train\.steps",
        ),
        ({"gram.teacher": "runs/x"}, r"gram\.teacher='runs/x' is for .*gram\.use_loss=False"),
        (
            {**GRAM, "ibot.mask_rule": "dinov2", "gram.tokens_used": "masked"},
            r"gram\.tokens_used='masked' needs as many masked patches",
        ),
        (
            {**GRAM, "ibot.mask_rule": "dinov2", "gram.compute_stats": True},
            r"gram\.compute_stats=True needs as many masked patches",
        ),
        ({**GRAM, "gram.update_every_steps": 0}, r"update_every_steps=0 must be at least 1, or"),
        ({**GRAM, "gram.max_updates": 3}, r"max_updates=3 are for gram\.update_every_steps=None"),
        ({**GRAM, "gram.tokens_used": "few"}, r"tokens_used='few' is unknown; .*'unmasked'"),
        (
            {**GRAM, "gram.global_teacher_resize_method": "area"},
            r"resize_method='area' is unknown; .*bilinear",
        ),
        (
            {**GRAM, "gram.tokens_used": "masked", "gram.img_level": True},
            r"tokens_used='masked' differ in number .* gram\.img_level to False",
        ),
        (
            {**GRAM, "gram.remove_neg": True, "gram.remove_only_teacher_neg": True},
            r"exclude each other",
        ),
        (
            {**GRAM, "crops.gram_teacher_crops_size": 72, "data.canvas_px": 96},
            r"gram_teacher_crops_size=72 is not a multiple of patch_size=16; use 64 or 80",
        ),
        ({"init.resume": True}, r"init\.resume=True has no run to go on with"),
        (
            {"init.from": "a.safetensors", "init.resume": True},
            r"init\.from='a\.safetensors' is a backbone; set init\.resume to False",
        ),
        (
            {"recovery.open_below": 0.5, "recovery.patience_steps": 3},
            r"open_below=0\.5, recovery\.patience_steps=3 .* set recovery\.max_steps, e\.g\. to 1",
        ),
        (
            {**RECOVERY, "init.from": None},
            r"recovery\.max_steps=2 is for a backbone without heads; set init\.from",
        ),
        (
            {**RECOVERY, "init.from": "runs/x", "init.resume": True},
            r"recovery\.max_steps=2 .*init\.resume to False",
        ),
        (
            {**DISTIL, **RECOVERY},
            r"distillation\.teacher='random' has its own; .*max_steps to None",
        ),
        ({**RECOVERY, "recovery.patience_steps": 0}, r"patience_steps=0 must be at least 1"),
        ({**RECOVERY, "recovery.seed_batches": -1}, r"seed_batches=-1 must be at least 0"),
        ({**RECOVERY, "recovery.open_below": 1.5}, r"open_below=1\.5 must .* at most 1; use 0\.9"),
        (
            {**RECOVERY, "recovery.warmup_steps": 2},
            r"max_steps=2 and warmup_steps=2 may take longer than train\.steps=3",
        ),
        (HEADS, r"describe a frozen teacher, and distillation\.teacher=None"),
        (
            {"distillation.students": (("a", ()),)},
            r"distillation\.students learn from a frozen teacher",
        ),
        (
            {"distillation.objective": "features", "crops.local_crops_number": 0},
            r"distillation\.objective, matching, .* distillation\.teacher=None",
        ),
        ({**FEATURES, "distillation.objective": "logits"}, r"objective='logits' is unknown; use"),
        ({**FEATURES, **HEADS}, r"does without; set them to their defaults"),
        ({**FEATURES, **GRAM}, r"gram\.use_loss=True has no place beside .*; set it to False"),
        (
            {**FEATURES, "crops.local_crops_number": 4},
            r"local_crops_number=4 are crops that the frozen teacher does not see.*set it to 0",
        ),
        ({"crops.local_crops_number": 0}, r"local_crops_number=0 leaves nothing to compare"),
        (
            {**FEATURES, "distillation.matching.teacher_norm": "whiten"},
            r"teacher_norm='whiten' is unknown; .*'standardize', 'none'",
        ),
        (
            {**FEATURES, "distillation.matching.patch_cosine_weight": -1.0},
            r"weighs its losses by \[1\.0, 0\.0, -1\.0, 0\.1\]",
        ),
        (
            {**FEATURES, "distillation.matching.smooth_l1_beta": 0.0},
            r"matching\.smooth_l1_beta=0\.0 must be above 0; use 1\.0",
        ),
        (
            {**FEATURES, "distillation.matching.projection_hidden_dim": 0},
            r"matching\.projection_hidden_dim=0 must be above 0; use 2048",
        ),
        (
            {**DISTIL, "distillation.matching.cls_cosine_weight": 2.0},
            r"distillation\.matching is for objective='features'",
        ),
        (
            {**FEATURES, "distillation.backbone.patch_size": 14},
            r"global_crops_size=64 over .*=1\.0 is not a multiple of .* patch_size=14",
        ),
        (
            {**DISTIL, "dino.head.n_prototypes": 32},
            r"dino\.head\.n_prototypes=32 must be .*n_prototypes=64; use 64",
        ),
        (
            {**DISTIL, "gram.use_loss": True, "gram.teacher": "ema"},
            r"gram\.teacher='ema' has no patches in distillation",
        ),
        (
            {**DISTIL, "distillation.backbone.patch_size": 8},
            r"has 4x4 patches and the frozen teacher 8x8; .*resolution_scale=2\.0",
        ),
        (
            {**DISTIL, "crops.teacher_to_student_resolution_scale": 3.0},
            r"resolution_scale=3\.0 is not a multiple of the frozen teacher's patch_size=16",
        ),
        ({**TWO, **GRAM}, r"gram\.use_loss=True is for one student, .* has 2; set it to False"),
        (
            {**TWO, "distillation.students": (("a", ()), ("a", ()))},
            r"names 'a', which must be a word that comes once",
        ),
        (
            {**TWO, "distillation.students": (("a", (("train.seed", 1),)),)},
            r"a has a key 'train\.seed' of its own, .* student\., dino\., ibot\., optim\.",
        ),
        (
            {**TWO, "distillation.students": (("a", (("ibot.mask_sample_probability", 1.0),)),)},
            r"a has a key 'ibot\.mask_sample_probability' of its own, .* in common; set it for",
        ),
        (
            {**TWO, "distillation.students": (("a", (("student.width", 1),)),)},
            r"unknown key student\.width",
        ),
    ],
)
def test_what_contradicts_itself(keys, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        validate(config(keys), batch_shards=1)


def test_each_student_is_a_configuration():
    several = config(
        {**TWO, "distillation.students": (("a", ()), ("b", (("optim.lr.peak", 0.5),)))}
    )
    alone = student_configs(several)
    assert list(alone) == ["a", "b"]
    assert alone["a"] == config(DISTIL)
    assert alone["b"] == config({**DISTIL, "optim.lr.peak": 0.5})
    assert student_configs(config(DISTIL)) == {}
