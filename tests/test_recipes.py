"""The shipped recipes: their golden text, the hardware they name, and what was published."""

import json
import os

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from recipe_files import ROOT, recipe

from dinojax import trees
from dinojax.build.schedules import build_schedule, build_schedules
from dinojax.build.step import build_init, build_train_step
from dinojax.config import Config, from_dict, to_dict
from dinojax.config.resolutions import resolutions
from dinojax.config.validation import validate
from dinojax.models.presets import get_preset
from dinojax.planning.mesh_choice import ROOM, choose_mesh
from dinojax.planning.topologies import CHIPS
from dinojax.train import train

SMALL = [
    f"small_vit:{arch}_{stage}"
    for arch in ("vits16", "vitb16")
    for stage in ("pretrain", "gram", "high_res", "distilled", "adapted")
]
BATCH_SHARDS = {
    "quickstart": 1,
    "quickstart:32px": 1,
    **{f"quickstart:{variant}": 1 for variant in ("small", "distilled", "features")},
    "dinov2_vitl16_short": 32,
    "dinov2_vitl14": 96,
    "dinov2_vitg14": 256,
    "dinov2_vitg14_high_res": 256,
    "dinov3_vitl16_in1k": 32,
    "dinov3_vit7b16_pretrain": 256,
    "dinov3_vit7b16_gram_anchor": 256,
    "dinov3_vit7b16_high_res_adapt": 128,
    "dinov3_vitl16_lvd1689m_distilled": 120,
    "dinov3_multi_distilled": 120,
    **{f"dinov3_convnext_distilled:{size}": 128 for size in ("tiny", "small", "base", "large")},
    **dict.fromkeys(SMALL, 1),
}
"""Every recipe that is shipped, and devices that its batch is split over."""
DEBUG = [
    *(name for name in BATCH_SHARDS if ":" not in name and name != "quickstart"),
    "dinov3_convnext_distilled",
    *(name for name in SMALL if "vits16" in name),
]
"""Recipes that ``:debug`` shrinks."""


def test_all_recipes_are_here():
    shipped = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert shipped == {name.partition(":")[0] for name in BATCH_SHARDS}


@pytest.mark.parametrize("name", BATCH_SHARDS)
def test_recipes_resolve_to_their_golden_text(name):
    """Any change of a recipe shows in review: UPDATE_RECIPES=1 pytest rewrites the text."""
    resolved = json.dumps(to_dict(recipe(name)), indent=1) + "\n"
    golden = ROOT / "tests" / "recipes" / f"{name.replace(':', '_')}.json"
    if os.environ.get("UPDATE_RECIPES"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(resolved)
    assert golden.read_text() == resolved


@pytest.mark.parametrize("name", [name for name in BATCH_SHARDS if name not in SMALL])
def test_recipes_are_possible_on_their_hardware(name):
    validate(recipe(name), batch_shards=BATCH_SHARDS[name])


@pytest.mark.parametrize("name", SMALL)
def test_small_recipes_fit_a_gpu_of_24_gb(name):
    memory = CHIPS["rtx4090"].hbm_bytes
    assert choose_mesh(recipe(name), 1, memory).memory.total <= ROOM * memory


@pytest.mark.parametrize("name", DEBUG)
def test_shrunk_recipes_are_possible(name):
    validate(recipe(f"{name}:debug"), batch_shards=1)


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["dinov2_vitl16_short", "small_vit:vits16_distilled"],
        [
            *(name for name in DEBUG if "dinov2" in name),
            *(f"small_vit:vits16_{stage}" for stage in ("gram", "high_res", "distilled")),
        ],
    ),
)
def test_shrunk_recipes_trace(name):
    """The step of the last of their resolutions, in shapes only."""
    config = recipe(f"{name}:debug")
    last = resolutions(config)[-1]
    state = jax.eval_shape(build_init(last))
    count, side = config.train.batch_size, config.data.canvas_px
    batch = {
        "canvas": jax.ShapeDtypeStruct((count, side, side, 3), np.uint8),
        "size": jax.ShapeDtypeStruct((count, 2), np.int32),
    }
    after, _ = jax.eval_shape(build_train_step(last), state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.slow
def test_small_stages_follow_one_another(tmp_path, monkeypatch):
    """Each starts from the checkpoint of the one before that it names, shrunk and in real steps."""
    monkeypatch.chdir(tmp_path)
    workdirs = {
        **{stage: f"runs/vits16_{stage}" for stage in ("gram", "high_res", "adapted")},
        "pretrain": "runs/vits16",
        "distilled": "runs/vits16_distilled",
    }
    last = {"runs/vits16/checkpoints/25000": "runs/vits16/checkpoints/3"}
    for stage in ("pretrain", "gram", "high_res", "distilled", "adapted"):
        name = f"small_vit:vits16_{stage}"
        whole, shrunk = recipe(name), to_dict(recipe(f"{name}:debug"))
        shrunk["init"]["from"] = whole.init.from_
        shrunk["gram"] |= {"teacher": last.get(whole.gram.teacher, whole.gram.teacher)}
        if whole.gram.teacher:
            shrunk["gram"]["load_ema_step"] = None
        if whole.distillation.teacher:  # its model is shrunk to the student's here
            shrunk["distillation"]["teacher"] = "runs/vits16"
        shrunk["mesh"] = {"data": -1, "fsdp": 1, "tensor": 1}
        summary = train(_of_devices(shrunk), workdirs[stage])
        assert summary["steps"] == 3 and np.isfinite(summary["loss_last"])


def _of_devices(values: dict) -> Config:
    """Groups for the eight devices of the tests."""
    values["train"] |= {"batch_size": 32, "draw_group_size": 2}
    values["dino"]["koleo_group_size"] = 2
    return from_dict(values)


def test_published_recipe():
    schedules = build_schedules(recipe("dinov3_vitl16_in1k"))
    assert float(schedules.lr(12_499)) == pytest.approx(5.657e-3, rel=1e-3)
    assert float(schedules.last_layer_lr(1249)) == 0 < float(schedules.last_layer_lr(1250))


@pytest.mark.parametrize(
    ("name", "file", "images"),
    [
        ("dinov3_vit7b16_pretrain", "dinov3_vit7b16_pretrain", 4096),
        ("dinov3_vit7b16_gram_anchor", "dinov3_vit7b16_gram_anchor", 4096),
        ("dinov3_vit7b16_high_res_adapt", "dinov3_vit7b16_high_res_adapt", 2048),
        # The numbers of images that the learning rates are scaled to here and there.
        ("dinov3_vitl16_lvd1689m_distilled", "dinov3_vitl16_lvd1689m_distilled", 296 * 6),
        ("dinov3_convnext_distilled:tiny", "distillation_convnext__convnext_tiny_p16", 4096),
        ("dinov3_convnext_distilled:large", "distillation_convnext__convnext_large_p16", 4096),
    ],
)
def test_published_schedules(name, file, images):
    """Against those that the reference builds from its own file."""
    config = recipe(name)
    path = f"schedules/{file}.npz"
    stored, options = goldens.arrays(path), goldens.options(path)
    assert config.train.steps == options["total_iterations"]
    there = options["world_size"] * options["batch_size_per_gpu"]
    schedules = build_schedules(config)._asdict()
    weight = build_schedule("gram.loss_weight", config.gram.loss_weight, config.train.steps)
    schedules["gram_loss_weight"] = weight
    with jax.enable_x64(True):
        steps = jnp.asarray(stored["iteration"])
        for schedule in stored.keys() - {"iteration"}:
            values = np.asarray(jax.vmap(schedules[schedule])(steps))
            expected = stored[schedule]
            if schedule.endswith("lr"):  # the start of a warm-up is not scaled
                scale = (images / there) ** 0.5
                warmup = steps < config.optim.lr.warmup_steps
                expected = np.where(warmup & (scale != 1), values, scale * expected)
            values = np.broadcast_to(values, expected.shape)
            np.testing.assert_allclose(values, expected, rtol=1e-6, err_msg=schedule)


@pytest.mark.parametrize(
    ("name", "peak", "warmup", "frozen", "decay", "momentum", "temperature_steps"),
    [
        # 4e-3 and 2e-4 times sqrt(images / 1024); arXiv:2304.07193, table 16: 3.5e-4.
        ("dinov2_vitl16_short", 5.657e-3, 12_500, 1250, 0.4, 0.992, 37_500),
        ("dinov2_vitl14", 3.464e-4, 100_000, 1250, 0.2, 0.994, 37_500),
        ("dinov2_vitg14", 3.464e-4, 100_000, 1250, 0.2, 0.994, 37_500),
        ("dinov2_vitg14_high_res", 6.06e-5, 1600, 20, 0.2, 0.994, 600),
    ],
)
def test_dinov2_schedules(name, peak, warmup, frozen, decay, momentum, temperature_steps):
    """The last is the first stage's in 62.5 times fewer steps, but for its rate."""
    config = recipe(name)
    schedules, last = build_schedules(config), config.train.steps
    assert float(schedules.lr(0)) == 0
    assert float(schedules.lr(warmup - 1)) == pytest.approx(peak, rel=1e-3)
    assert float(schedules.lr(last)) == pytest.approx(1e-6)
    assert float(schedules.last_layer_lr(frozen - 1)) == 0 < float(schedules.last_layer_lr(frozen))
    ends = {
        "weight_decay": (0.04, decay),
        "momentum": (momentum, 1.0),
        "teacher_temp": (0.04, 0.07),
    }
    for schedule, (first, final) in ends.items():
        values = [float(getattr(schedules, schedule)(step)) for step in (0, last)]
        assert values == pytest.approx([first, final]), schedule
    assert float(schedules.teacher_temp(temperature_steps - 1)) == pytest.approx(0.07)
    assert float(schedules.teacher_temp(temperature_steps // 2)) < 0.06


@pytest.mark.parametrize(
    ("name", "preset", "more"),
    [
        ("dinov3_vit7b16_pretrain", "vit7b16", 0),
        # A table of 14 x 14 instead of 37 x 37 patches, which are of 16 instead of 14 px.
        ("dinov2_vitl16_short", "vitl14", ((14**2 - 37**2) + 3 * (16**2 - 14**2)) * 1024),
        ("dinov2_vitg14", "vitg14", (16**2 - 37**2) * 1536),
        ("dinov2_vitg14_high_res", "vitg14", 0),
    ],
)
def test_published_models(name, preset, more):
    """Parameters of the backbone: the released model's and what the recipe has more or less."""
    backbone = jax.eval_shape(build_init(recipe(name))).student["backbone"]
    assert trees.count(backbone) == get_preset(preset).parameters + more


def test_tied_and_separate_heads_of_dinov2():
    """Prototypes and bottlenecks of vitl16_short.yaml and vitl14.yaml."""
    for name, heads in (
        ("dinov2_vitl16_short", {"dino_head": (65_536, 256)}),
        ("dinov2_vitl14", {"dino_head": (131_072, 384), "ibot_head": (131_072, 256)}),
    ):
        student = jax.eval_shape(build_init(recipe(name))).student
        found = {
            part: sorted(leaf.shape for path, leaf in trees.flatten(tree).items() if "last" in path)
            for part, tree in student.items()
            if part != "backbone"
        }
        assert found.keys() == heads.keys()
        for part, (prototypes, bottleneck) in heads.items():
            sizes = {size for shape in found[part] for size in shape}
            assert {prototypes, bottleneck} <= sizes, found
