"""The keys of the stages after pretraining: ``gram``, ``distillation``, ``init``, ``recovery``."""

from dataclasses import dataclass

from dinojax.config.backbone import BackboneConfig
from dinojax.config.method import HeadConfig, ScheduleConfig, flat


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
    loss_weight: ScheduleConfig = flat(1.0)
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
class InitConfig:
    """What a run starts from, as long as it has no checkpoint of its own."""

    from_: str | None = None
    """The key is ``init.from``: a workdir, for its newest checkpoint, or one of its checkpoints, as
    in runs/x/checkpoints/400; of a run with several students with the name of one behind it, as in
    runs/x#vits16. Student and EMA teacher become copies of the EMA teacher there, heads included;
    the optimizer and the steps start anew. A position table of another grid (DINOv2) is resampled.
    Or a backbone without heads: a snapshot, as in runs/x/snapshots/400, or a file of weights as in
    docs/weights.md. None: random weights."""
    resume: bool = False
    """Take the whole state over instead: the run goes on at the step of the checkpoint, under this
    configuration. Schedules are then those of the whole run, train.steps counts from its start."""


@dataclass(frozen=True)
class RecoveryConfig:
    """New heads for the backbone of init.from: they are trained first, with the backbone frozen.

    Heads that are there are left out. See docs/recovery.md.
    """

    max_steps: int | None = None
    """At the latest after so many steps the backbone is trained, with a warning if the heads are
    not ready. None: no such phase."""
    seed_batches: int = 32
    """The run's first batches, from whose features k-means makes the prototypes. 0: random ones."""
    open_below: float = 0.9
    """Heads are ready when the student's cross-entropy with the targets of both is below this share
    of the logarithm of the number of prototypes,"""
    patience_steps: int = 20
    """in so many steps one after another."""
    warmup_steps: int = 100
    """Over which the backbone's learning rate then grows from 0 to that of the heads."""
