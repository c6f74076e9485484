"""The configuration of a pretraining run: its schema and defaults.

Defaults are those of the DINOv3 reference; recipe files in ``configs/`` state only what differs.
The words are the reference's where it has one. This module, `config_parse` and the apps are the
only ones that see a ``ConfigDict``: everything below them gets plain arguments.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import ml_collections

from dinojax.config_backbone import BackboneConfig, StudentConfig
from dinojax.config_parse import key_of, parse, to_config_dict
from dinojax.views.recipe import ViewRecipe


@dataclass(frozen=True)
class ScheduleConfig:
    """A value over the run, in steps. See `dinojax.schedules` for the two families."""

    family: str = "dinov3"
    """"dinov3" (linear_warmup_cosine_decay) or "dinov2" (cosine_schedule)."""
    start: float = 0.0
    peak: float = 0.0
    end: float = 0.0
    warmup_steps: int = 0
    cosine_steps: int | None = None
    """dinov3 only; None: the rest of the run."""
    trunc_extra: float = 0.0
    """dinov2 only."""


def _flat(value: float) -> ScheduleConfig:
    return ScheduleConfig(start=value, peak=value, end=value)


@dataclass(frozen=True)
class HeadConfig:
    """Size of a projection head."""

    n_prototypes: int = 65536
    bottleneck_dim: int = 256
    nlayers: int = 3
    hidden_dim: int = 2048
    weight_norm: bool = False
    """Prototypes as a direction and a gain (DINOv2)."""


@dataclass(frozen=True)
class DinoConfig:
    """CLS objective and KoLeo."""

    loss_weight: float = 1.0
    global_ignore_diagonal: bool = True
    head: HeadConfig = HeadConfig()
    koleo_loss_weight: float = 0.1
    koleo_group_size: int | None = None
    """Images among which nearest neighbours are searched; None: draw_group_size. As there, the
    number of groups must be a multiple of micro_batches x data x fsdp devices."""
    koleo_topk: int = 1
    local_loss_weight: ScheduleConfig = _flat(1.0)


@dataclass(frozen=True)
class IbotConfig:
    """Masked-patch objective."""

    loss_weight: float = 1.0
    mask_sample_probability: float = 0.5
    mask_ratio_min_max: tuple[float, float] = (0.1, 0.5)
    mask_rule: str = "dinov3"
    """"dinov3": a mask has just as many patches as its ratio asks for. "dinov2": it ends at the
    blocks that fit, and its ratio is drawn."""
    mask_random_circular_shift: bool = False
    separate_head: bool = True
    """False: the CLS head is that of the patches too, and `head` must equal dino.head."""
    head: HeadConfig = HeadConfig()


@dataclass(frozen=True)
class MatchingConfig:
    """Losses between features, each a mean over the tokens of the global crops.

    Student and teacher may have other grids of patches: the teacher's are resized.
    """

    cls_cosine_weight: float = 1.0
    """The defaults are AM-RADIO's (arXiv:2312.06709, section 3.3). Of 1 - cosine."""
    cls_smooth_l1_weight: float = 0.0
    patch_cosine_weight: float = 0.9
    patch_smooth_l1_weight: float = 0.1
    smooth_l1_beta: float = 1.0
    """Differences below it count squared, those above it by their size."""
    teacher_norm: str = "standardize"
    """"standardize": each token of the teacher to mean 0 and variance 1 over its channels, so that
    weights and beta mean the same for every teacher. "none": its features as they are."""
    projection_hidden_dim: int | None = None
    """Student tokens reach the teacher's width through a linear map each for CLS and patches, or
    through MLPs of two layers of this width. They are no part of the backbone that is kept."""


@dataclass(frozen=True)
class DistillationConfig:
    """A frozen teacher gives the targets; the EMA of the student is what is evaluated and kept.

    The student sees all patches; of those by prototypes it predicts the ones that would be masked.
    """

    teacher: str | None = None
    """A checkpoint as in init.from, whose EMA teacher is the frozen teacher; or "random", to try a
    recipe out. Checkpoints of the run leave it out. None: no distillation."""
    objective: str = "prototypes"
    """"prototypes": what the teacher's heads make of its features, by the losses of pretraining.
    "features": its features themselves (`matching`), so the backbone is enough. Then dino, ibot and
    train.centering are not read, and crops.local_crops_number must be 0."""
    matching: MatchingConfig = MatchingConfig()
    backbone: BackboneConfig = BackboneConfig()
    """Of the frozen teacher, as are the heads. They have as many prototypes as the student's."""
    dino_head: HeadConfig = HeadConfig()
    ibot_head: HeadConfig = HeadConfig()
    students: tuple[tuple[str, tuple[tuple[str, object], ...]], ...] = ()
    """Several students at once: ``("vits16", (("student.arch", "vits16"), ...))`` for each, its
    name and what it has other than the run in student, dino, ibot and optim. Empty: one student."""


@dataclass(frozen=True)
class GramConfig:
    """Gram anchoring (DINOv3, section 4.2): patch similarities stay near those of a Gram teacher.

    Its crops are ``crops.gram_teacher_crops_size``; None: the student's global crops.
    """

    use_loss: bool = False
    loss_weight: ScheduleConfig = _flat(1.0)
    teacher: str | None = None
    """"ema": the EMA teacher itself, as it moves; a checkpoint, as in init.from; or "auto": of the
    run that init.from names, the snapshot that ``dinojax.show snapshots`` recommends. None: a copy
    of the EMA teacher that is made at load_ema_step."""
    load_ema_step: int | None = None
    """After this many steps the Gram teacher becomes a copy of the EMA teacher, once. Without a
    checkpoint there is no Gram teacher before, and the weight is 0."""
    update_every_steps: int | None = None
    """It becomes one again at every multiple of this. None: never."""
    first_update_step: int = 0
    """The earliest multiple that counts."""
    max_updates: int | None = None
    """None: as many as there are."""
    img_level: bool = False
    """One matrix of similarities per image; else one over all global crops of a draw group."""
    normalized: bool = True
    """Cosines, not inner products."""
    remove_neg: bool = False
    """Negative similarities count as 0, in student and teacher."""
    remove_only_teacher_neg: bool = False
    """In the teacher alone. (The reference intends more and does this.)"""
    tokens_used: str = "all"
    """"all", or those that are "masked" or "unmasked" for the student; the last two per group."""
    global_teacher_resize_method: str = "bicubic"
    """From the grid of its crops to the student's: "bicubic" or "bilinear", as torch does it."""
    global_teacher_resize_antialias: bool = False
    compute_stats: bool = False
    """Also log the loss, per group, of masked and of unmasked tokens."""


@dataclass(frozen=True)
class CropsConfig(ViewRecipe):
    """The views, in one or several resolutions.

    The reference's lists: of the keys below those that are lists have equal lengths, and entry i of
    each belongs to resolution i. A single value holds for all. Each step takes one resolution.
    """

    global_crops_size: int | tuple[int, ...] = 224
    local_crops_size: int | tuple[int, ...] = 96
    gram_teacher_crops_size: int | tuple[int, ...] | None = None
    global_local_crop_pairs_ratios: float | tuple[float, ...] = 1.0
    """Share of the steps that each resolution gets, in any unit; stratified (`data.strata`)."""
    teacher_to_student_resolution_scale: float = 1.0
    """The teacher sees the global crops with sides smaller by this factor, so that a student with
    larger patches has the same grid: 2.0 for a ConvNeXt (stride 32) and a teacher of patches 16."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and what changes over the run."""

    lr: ScheduleConfig = ScheduleConfig(
        family="dinov2", start=0.0, peak=1e-3, end=1e-6, warmup_steps=12_500
    )
    scaling_rule: str = "sqrt_wrt_1024"
    """How lr follows train.batch_size; the start is never scaled, the end only in dinov3 family."""
    freeze_last_layer_steps: int = 1250
    weight_decay: ScheduleConfig = ScheduleConfig(family="dinov2", peak=0.04, end=0.4)
    momentum: ScheduleConfig = ScheduleConfig(family="dinov2", peak=0.992, end=1.0)
    """Of the teacher's moving average."""
    teacher_temp: ScheduleConfig = ScheduleConfig(
        family="dinov2", start=0.04, peak=0.07, end=0.07, warmup_steps=37_500
    )
    clip_grad: float | None = 3.0
    layerwise_decay: float = 0.9
    patch_embed_lr_mult: float = 0.2
    adamw_beta1: float = 0.9
    adamw_beta2: float = 0.999
    moments_dtype: str | None = None
    """What AdamW's moments are stored in. None: the dtype of the parameters; or "bfloat16"."""


@dataclass(frozen=True)
class TrainConfig:
    """The run."""

    steps: int = 125_000
    batch_size: int = 2048
    """Images per step over all devices."""
    draw_group_size: int | None = 64
    """Images that share stochastic-depth, RoPE and mask draws; None: the whole batch. The number of
    groups must be a multiple of micro_batches x data x fsdp devices."""
    micro_batches: int = 1
    """Parts of the batch that the student sees one after another, for one and the same update."""
    prototype_chunk: int | None = None
    """Rows of prototype logits, of student and teacher together, that exist at a time per device.
    None: all of a micro-batch."""
    seed: int = 0
    precision: str = "bfloat16"
    centering: str = "sinkhorn_knopp"
    log_every_steps: int = 10
    rollback_after: int = 100
    """Steps in a row without a finite loss and gradient after which the run goes back to a
    checkpoint before them and leaves out all steps since then. 0: never."""
    hang_timeout_s: float = 1800.0
    """Without progress for so long, the run prints the stacks of its threads and ends. It must
    exceed one evaluation and one save; before the first step it counts ten times. 0: never."""


@dataclass(frozen=True)
class MeshConfig:
    """Devices per axis; -1: all that the others leave. `planning.mesh_choice` chooses what is 0."""

    data: int = -1
    """Copies of the model: over slices or nodes, for links too slow to gather weights over."""
    fsdp: int = 0
    """Parts that weights, moments and teachers are split into, and gathered from layer by layer.
    0: the fewest with which the step is predicted to fit into memory."""
    tensor: int = 0
    """Parts that heads, hidden features and prototypes are split into; divides each of them.
    0: 1 if possible."""


@dataclass(frozen=True)
class ScenesConfig:
    """Size of the embedded procedural dataset, when data.source is "scenes"."""

    num_images: int = 4096
    image_px: int = 64
    num_classes: int = 10


@dataclass(frozen=True)
class DataConfig:
    """Where images come from."""

    source: str = "scenes"
    """"scenes", a folder of images, a .tar of images, or kind:path as in docs/data.md."""
    ids: str | None = None
    """File of the record ids to train on, as often as each is listed: text with one per line, or
    Parquet with a column id. None: all records. Parts of a mixture take ids:FILE:SPEC instead."""
    mixture: tuple[tuple[str, float], ...] = ()
    """(source, weight) pairs that take the place of data.source, which then stays at its default.
    Weights are in any unit; 0 is for the homogeneous source alone."""
    homogeneous_source: str | None = None
    """The source in the mixture from which homogeneous steps take their whole batch."""
    homogeneous_share: float = 0.0
    """Share of the steps that are homogeneous: of every 1 / share steps one at a hashed place."""
    holdout: float = 0.1
    """Share of the records kept out of training, as queries of the kNN monitor. Of a mixture one
    part is monitored and gives them: the homogeneous source, or else the first with labels."""
    canvas_px: int = 512
    """Side that images are averaged down to where they are larger, before crops are cut; at least
    the largest global or Gram crop."""
    num_workers: int = 0
    """Decoding processes; 0 decodes in threads of the main one."""
    prefetch_mb: int = 4096
    """Memory per host for batches loaded ahead, in MB; at least one batch is."""
    verify_images: int = 2048
    """Records decoded before training starts, spread over the source, to find unreadable ones."""
    bad_budget: float = 0.01
    """Share of the records read that may be unreadable and so be replaced; above it the run stops.
    0: stop at the first one."""
    read_timeout_s: float = 300.0
    """How long to wait for one image before the run stops; it is never replaced for being slow."""
    scenes: ScenesConfig = ScenesConfig()


@dataclass(frozen=True)
class KnnConfig:
    """The online monitor: weighted kNN of the teacher's CLS feature."""

    every_steps: int = 5000
    """0: never. With it also before the first step (untrained) and after the last."""
    k: int = 20
    temperature: float = 0.07
    image_px: int = 224
    max_bank: int = 20_000
    max_queries: int = 5_000
    batch_size: int = 256


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every_steps: int = 3750
    keep_last: int = 3
    keep_every_steps: int | None = None
    snapshot_every_steps: int | None = None
    """Also saves the teacher's backbone alone, and keeps all of them: candidates for the Gram
    teacher. None: never."""


@dataclass(frozen=True)
class InitConfig:
    """What a run starts from, as long as it has no checkpoint of its own."""

    from_: str | None = None
    """The key is ``init.from``: a workdir, for its newest checkpoint, or one of its checkpoints, as
    in runs/x/checkpoints/400; of a run with several students with the name of one behind it, as in
    runs/x#vits16. Student and EMA teacher become copies of the EMA teacher there, heads included;
    the optimizer and the steps start anew. A position table of another grid (DINOv2) is resampled.
    None: random weights."""
    resume: bool = False
    """Take the whole state over instead: the run goes on at the step of the checkpoint, under this
    configuration. Schedules are then those of the whole run, train.steps counts from its start."""


@dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    student: StudentConfig = StudentConfig()
    dino: DinoConfig = DinoConfig()
    ibot: IbotConfig = IbotConfig()
    gram: GramConfig = GramConfig()
    distillation: DistillationConfig = DistillationConfig()
    crops: CropsConfig = CropsConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()
    data: DataConfig = DataConfig()
    knn: KnnConfig = KnnConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    init: InitConfig = InitConfig()


# Any: ml_collections has no types, and what checkers infer for its attributes is wrong.
def default_config() -> Any:
    """The defaults as a locked ConfigDict, for recipe files to change."""
    return to_config_dict(Config()).lock()


def parse_config(config: ml_collections.ConfigDict) -> Config:
    """Typed configuration from a recipe.

    Raises:
        ValueError: an unknown key (with the nearest known one) or a value of the wrong type.
    """
    return parse(Config, config.to_dict())


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dict, as stored in ``config.json``."""
    return dataclasses.asdict(
        config, dict_factory=lambda pairs: {key_of(name): value for name, value in pairs}
    )


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`, also after a way through JSON.

    Raises:
        ValueError: an unknown key or a value of the wrong type.
    """
    return parse(Config, values)
