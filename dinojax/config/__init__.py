"""The configuration of a pretraining run: its schema and defaults.

Defaults are those of the DINOv3 reference; recipe files in ``configs/`` state only what differs.
The words are the reference's where it has one. This module, `config_parse` and the apps are the
only ones that see a ``ConfigDict``: everything below them gets plain arguments.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import ml_collections

from dinojax.config.backbone import StudentConfig
from dinojax.config.data import DataConfig
from dinojax.config.method import DinoConfig, IbotConfig, OptimConfig
from dinojax.config.parse import key_of, parse, to_config_dict
from dinojax.config.stages import DistillationConfig, GramConfig, InitConfig, RecoveryConfig
from dinojax.views.recipe import ViewRecipe


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
    None: all of a micro-batch. On TPUs none exist: kernels make and use them tile by tile."""
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
class KnnConfig:
    """The online monitor (docs/monitors.md): weighted kNN of CLS features, and all other scores of
    frozen features and heads."""

    every_steps: int = 5000
    """0: never. With it also before the first step (untrained) and after the last."""
    k: int = 20
    temperature: float = 0.07
    image_px: int = 224
    max_bank: int = 20_000
    """Labelled training images that kNN and the linear probe know."""
    max_queries: int = 5_000
    """Held-out images that everything is scored on."""
    batch_size: int = 256


@dataclass(frozen=True)
class GuardianConfig:
    """What happens when the monitor's scores say that a run goes wrong (docs/monitors.md)."""

    action: str = "warn"
    """"warn" tells it, once. "stop" also saves the state and ends the run with a code of its own.
    "rollback" goes back to a checkpoint before it and leaves out the steps since then, where that
    may help, and else stops."""
    ignore: tuple[str, ...] = ()
    """Alarms that are not raised, by name."""


@dataclass(frozen=True)
class PanelsConfig:
    """Pictures of the EMA teacher's features, in TensorBoard."""

    every_steps: int = 0
    """0: never. With it also before the first step (untrained) and after the last."""
    images: int = 4
    """Held-out images, evenly spread."""
    image_px: int = 224
    """Side of their centre crops."""


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
    guardian: GuardianConfig = GuardianConfig()
    panels: PanelsConfig = PanelsConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    init: InitConfig = InitConfig()
    recovery: RecoveryConfig = RecoveryConfig()


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
