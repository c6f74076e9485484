"""Files of the reference become our recipes: the published ones, and what has no place here."""

import subprocess
import sys

import pytest
from recipe_files import recipe

from dinojax.build.model import build_backbone
from dinojax.config import Config, to_dict
from dinojax.config.backbone import BackboneConfig
from dinojax.import_config import import_config
from dinojax.models.presets import FIELDS
from dinojax.precision import get_precision
from dinojax.reference_yaml.convert import _SAME, Converted
from dinojax.runtime.contract import flatten

OURS = (
    *("data.", "mesh.", "init.", "panels.", "guardian.", "recovery.", "distillation."),
    *("knn.", "checkpoint.", "student.remat", "train.log_every_steps"),
)
"""What the reference's files do not say, or say of their own storage."""
CANVAS = "data.canvas_px"

IN1K = """
MODEL:
  META_ARCHITECTURE: SSLMetaArch
dino:
  head_n_prototypes: 65536
train:
  batch_size_per_gpu: 64
  dataset_path: ImageNet22k:root=/x
  OFFICIAL_EPOCH_LENGTH: 1250
  cache_dataset: true
student:
  arch: vit_large
  drop_path_rate: 0.3
  n_storage_tokens: 0
  fp8_enabled: false
  block_chunks: 4
teacher:
  momentum_teacher: 0.992
optim:
  epochs: 100
  lr: 1e-3
  min_lr: 1e-06
  warmup_epochs: 10
crops:
  local_crops_number: 8
"""
HEADS = """
dino: {head_n_prototypes: 262144, head_bottleneck_dim: 512, head_hidden_dim: 8192%s}
ibot: {head_n_prototypes: 98304, head_bottleneck_dim: 384, head_hidden_dim: 4096}
"""
STUDENT_7B = """
student:
  {arch: vit_7b, ffn_layer: swiglu64, norm_layer: layernormbf16, qkv_bias: false, mask_k_bias: true,
   n_storage_tokens: 4, untie_global_and_local_cls_norm: true, pos_embed_rope_rescale_coords: 2,
   drop_path_rate: 0.4, fp8_enabled: true, fp8_filter: blocks, resume_from_teacher_chkpt: ""}
"""
OPTIM_7B = "{epochs: %d, clip_grad: 30.0, layerwise_decay: 0.98, adamw_beta2: 0.99}"
PRETRAIN = (
    HEADS % ""
    + STUDENT_7B
    + f"optim: {OPTIM_7B % 1000}"
    + """
train: {batch_size_per_gpu: 16, OFFICIAL_EPOCH_LENGTH: 1000, checkpointing: true,
        checkpointing_full: true}
crops: {global_crops_size: 256, local_crops_size: 112, horizontal_flips: false}
schedules:
  lr: {start: 0, peak: 5e-05, end: 5e-05, warmup_epochs: 100, freeze_last_layer_epochs: 5}
  weight_decay: {start: 0.04, peak: 0.04, end: 0.04, warmup_epochs: 0}
  momentum: {start: 0.994, peak: 0.994, end: 0.994, warmup_epochs: 0}
  teacher_temp: {start: 0.04, peak: 0.07, end: 0.07, warmup_epochs: 100}
"""
)
GRAM = (
    HEADS
    % (
        ", reweight_dino_local_loss: true, local_loss_weight_schedule:"
        " {start: 1.0, peak: 1.0, end: 0.5, warmup_epochs: 1000, cosine_epochs: 1}"
    )
    + STUDENT_7B
    + f"optim: {OPTIM_7B % 1200}"
    + """
gram:
  {use_loss: true, compute_stats: true, img_level: true, rep_update: true, update_frequency: 10000,
   it_first_update: 1010000, max_updates: 3, ckpt: /x.pth, loss_weight_schedule:
   {start: 0, peak: 0, end: 2.0, warmup_epochs: 1000, cosine_epochs: 1}}
train: {batch_size_per_gpu: 16, OFFICIAL_EPOCH_LENGTH: 1000}
crops: {global_crops_size: 256, local_crops_size: 112, horizontal_flips: false,
        gram_teacher_crops_size: 512, gram_teacher_no_distortions: true}
schedules:
  lr: {start: 0, peak: 3e-05, end: 3e-05, warmup_epochs: 100, freeze_last_layer_epochs: 5}
  weight_decay: {start: 0.04, peak: 0.04, end: 0.04, warmup_epochs: 0}
  momentum: {start: 0.999, peak: 0.999, end: 0.999, warmup_epochs: 0}
  teacher_temp: {start: 0.04, peak: 0.07, end: 0.07, warmup_epochs: 100}
"""
)
HIGH_RES = (
    HEADS
    % (
        ", reweight_dino_local_loss: true, koleo_loss_distributed: true,"
        " koleo_distributed_loss_group_size: 16, local_loss_weight_schedule:"
        " {start: 0.5, peak: 0.5, end: 0.5, warmup_epochs: 0}"
    )
    + STUDENT_7B
    + f"optim: {OPTIM_7B % 30}"
    + """
gram: {use_loss: true, compute_stats: true, img_level: true, rep_update: false,
       loss_weight_schedule: {start: 1.5, peak: 1.5, end: 1.5, warmup_epochs: 0}}
train: {batch_size_per_gpu: 8, OFFICIAL_EPOCH_LENGTH: 1000}
crops:
  {global_crops_size: [512, 768, 768, 768, 768], local_crops_size: [112, 112, 168, 224, 336],
   gram_teacher_crops_size: [768, 1152, 1152, 1152, 1152], horizontal_flips: false,
   global_local_crop_pairs_ratios: [0.3, 0.3, 0.3, 0.05, 0.05], gram_teacher_no_distortions: true}
schedules:
  lr: {start: 0, peak: 0, end: 1.25e-05, warmup_epochs: 0, cosine_epochs: 10}
  weight_decay: {start: 0.04, peak: 0.04, end: 0.04, warmup_epochs: 0}
  momentum: {start: 0.999, peak: 0.999, end: 0.999, warmup_epochs: 0}
  teacher_temp: {start: 0.07, peak: 0.07, end: 0.07, warmup_epochs: 0}
"""
)
SHORT = "train: {batch_size_per_gpu: 64}\nstudent: {block_chunks: 4}\n"
VITL14 = """
dino: {head_n_prototypes: 131072, head_bottleneck_dim: 384}
ibot: {separate_head: true, head_n_prototypes: 131072}
train: {batch_size_per_gpu: 32, centering: sinkhorn_knopp}
student: {arch: vit_large, patch_size: 14, drop_path_rate: 0.4, ffn_layer: swiglufused,
          block_chunks: 4}
teacher: {momentum_teacher: 0.994}
optim: {epochs: 500, weight_decay_end: 0.2, base_lr: 2.0e-04, warmup_epochs: 80,
        layerwise_decay: 1.0}
crops: {local_crops_size: 98}
"""
PUBLISHED = {
    "dinov3_vitl16_in1k": (IN1K, 32),
    "dinov3_vit7b16_pretrain": (PRETRAIN, 256),
    "dinov3_vit7b16_gram_anchor": (GRAM, 256),
    "dinov3_vit7b16_high_res_adapt": (HIGH_RES, 256),
    "dinov2_vitl16_short": (SHORT, 32),
    "dinov2_vitl14": (VITL14, 96),
    "dinov2_vitg14": (
        VITL14.replace("vit_large", "vit_giant2").replace("per_gpu: 32", "per_gpu: 12"),
        256,
    ),
}


def converted(tmp_path, text: str, gpus: int = 1, system: str | None = None) -> Converted:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return import_config(str(path), gpus, system)[1]


def shared(config: Config) -> dict:
    """All that the reference's files say; of the model, what it comes to."""
    flat = flatten(to_dict(config))
    model = {f"student.{name}" for name in FIELDS}
    own = {key for key in flat if key == "gram.teacher" or key.startswith(OURS)} - {CANVAS}
    found = {key: flat[key] for key in flat if key not in own | model}
    backbone = build_backbone(config, get_precision("float32"))
    return {**found, "backbone": backbone.clone(remat="none")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_our_recipes(tmp_path, name):
    text, gpus = PUBLISHED[name]
    found = converted(tmp_path, text, gpus)
    assert found.system == name.split("_")[0]
    assert shared(found.config) == shared(recipe(name))


def test_every_key_that_is_not_honoured_is_told(tmp_path):
    left = {one.key: one.why for one in converted(tmp_path, IN1K, 32).left_out}
    assert left.keys() == {
        "train.dataset_path",
        "train.cache_dataset",
        "student.block_chunks",
    }
    assert "data.source" in left["train.dataset_path"]
    assert "reads it nowhere" in left["student.block_chunks"]
    left = {one.key: one for one in converted(tmp_path, GRAM, 256).left_out}
    assert left.keys() == {"gram.ckpt", "student.fp8_enabled", "student.fp8_filter"}
    assert "dinojax.import_torch" in left["gram.ckpt"].why and left["gram.ckpt"].value == "/x.pth"
    several = IN1K.replace("SSLMetaArch", "MultiDistillationMetaArch")
    (one,) = (o for o in converted(tmp_path, several, 32).left_out if o.key.startswith("MODEL"))
    assert "distillation.students" in one.why
    odd = IN1K + "typo: {key: 1}\nteacher_: 2\n"
    unknown = [one for one in converted(tmp_path, odd, 32).left_out if "unknown" in one.why]
    assert [one.key for one in unknown] == ["typo.key", "teacher_"]


def test_with_schedules_older_keys_do_nothing(tmp_path):
    """As in the reference, whose files have them all the same."""
    text = PRETRAIN + "teacher: {momentum_teacher: 0.5}\n"
    found = converted(tmp_path, text, 256)
    assert found.config == converted(tmp_path, PRETRAIN, 256).config
    assert any(one.key == "teacher.momentum_teacher" for one in found.left_out)


def test_a_distillation(tmp_path):
    """Of several students at once: the rate is that of 296 times 6 images, of 1,920."""
    text = (
        PRETRAIN.replace("crops: {", "crops: {gram_teacher_crops_size: 256, ")
        + "multidistillation: {enabled: true, global_batch_size: 1920, students: [{name: a}]}\n"
        + "distillation: {enabled: true, full_cfg_path: x.yaml, checkpoint_path: ignore}\n"
    )
    found = converted(tmp_path, text, 296)
    assert found.config.train.batch_size == 1920 and found.config.optim.scaling_rule == "none"
    assert found.config.optim.lr.end == pytest.approx(5e-5 * 4 * (296 * 6 / 1024) ** 0.5)
    left = {one.key for one in found.left_out}
    assert {"distillation.full_cfg_path", "multidistillation.students"} < left
    assert "crops.gram_teacher_crops_size" in left
    assert found.config.crops.gram_teacher_crops_size is None


def test_a_convnext(tmp_path):
    text = "student: {arch: convnext_tiny, norm_layer: layernorm, drop_path_rate: 0.2}"
    found = converted(tmp_path, text)
    assert found.config.student.arch == "convnext_tiny" and found.config.student.patch_size == 16
    assert found.config.student.drop_path_rate == 0
    assert {one.key for one in found.left_out} == {"student.norm_layer", "student.drop_path_rate"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("student: [", "x.yaml: this is no YAML"),
        ("- 1", "no table of keys, but list"),
        ("!!python/object/apply:os.system ['true']", "this is no YAML"),
        ("train: {seed: 1}", "keys are those of both systems; say which"),
        ("gram: {use_loss: false}\nstudent: {arch: resnet50}", "'resnet50' is unknown here; use"),
        ("gram: {use_loss: false}\noptim: {epochs: many}", "optim.epochs='many' is no number"),
        ("gram: {use_loss: false}\ntrain: {seed: x}", "train.seed='x' has the wrong type"),
        ("schedules: {lr: {peak: 1e-3}}", r"schedules\.lr\.start=None is no number"),
    ],
)
def test_what_is_refused(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        converted(tmp_path, text)


def test_no_file_and_no_gpus(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.yaml"):
        import_config(f"{tmp_path}/none.yaml", 1)
    (tmp_path / "x.yaml").write_text(IN1K)
    with pytest.raises(ValueError, match="--gpus=0 must be at least 1"):
        import_config(f"{tmp_path}/x.yaml", 0)


def test_keys_of_backbones_are_called_the_same():
    fields = {*BackboneConfig.__dataclass_fields__}
    assert {name for names in _SAME.values() for name in names} <= fields


def test_the_command(tmp_path):
    """The file it writes is one for --config."""
    (tmp_path / "x.yaml").write_text(SHORT + "optim: {base_lr: 2e-3}\n")
    command = [sys.executable, "-m", "dinojax.import_config", "x.yaml", "--gpus=4", "--out=o/x.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "dinov2, 1 keys not honoured" in done.stdout and "student.block_chunks" in done.stdout
    text = (tmp_path / "o" / "x.py").read_text()
    assert "config.optim.lr.peak = 0.002" in text and "config.train.batch_size = 256" in text
    command[-1], command[-2] = "--gpus=0", "y.yaml"
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
