"""Monocular depth with a linear head on frozen patch features."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from dinojax.data.map_batches import depth_batches
from dinojax.evaluation.depth_head import Bins, examples, make_depth_judge, make_depth_trainer
from dinojax.evaluation.depth_views import DepthViews
from dinojax.evaluation.head_training import shuffled
from dinojax.tasks.dense import patch_encoder, reading
from dinojax.tasks.task import SEEDS, Evaluation, Score, Task, over_seeds


@dataclass(frozen=True)
class DepthProtocol:
    """The defaults are those of DINOv3's code (NYUv2) apart from sizes, which fit any images."""

    layers: int = 1
    """Last layers whose normed patches are joined."""
    frame_hw: tuple[int, int] | None = None
    """Images are cut at the middle to this height and width. None: images.image_px squared."""
    canvas_px: int | None = None
    """Side that larger images are averaged down to before that. None: that of the data."""
    train_box: tuple[int, int, int, int] | None = None
    """Top, left, bottom, right within a frame that training crops lie in. None: all of it."""
    crop_hw: tuple[int, int] | None = None
    """Of training crops. None: frame_hw."""
    rotation_deg: float = 2.5
    distort: bool = True
    """Colours of training images."""
    test_box: tuple[int, int, int, int] | None = None
    """Pixels of a frame that count, as train_box (Eigen's crop). None: all of it."""
    test_flip: bool = True
    """Whether the prediction for the mirror image is averaged in."""
    bins: Bins = Bins()
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    clip_grad: float = 35.0
    warmup_steps: int = 12_800
    steps: int = 38_400
    batch_size: int = 16
    seeds: tuple[int, ...] = SEEDS


def _check_box(name: str, box: tuple[int, int, int, int], frame_hw: tuple[int, int]) -> None:
    """Raises ValueError: not inside of a frame."""
    top, left, bottom, right = box
    if not (0 <= top < bottom <= frame_hw[0] and 0 <= left < right <= frame_hw[1]):
        raise ValueError(
            f"depth.{name}={box} is no top, left, bottom, right within frames of {frame_hw[0]} x "
            f"{frame_hw[1]} px; set it with depth.frame_hw, or to None for whole frames"
        )


def _run(protocol: DepthProtocol, evaluation: Evaluation) -> Iterator[Score]:
    side = evaluation.preparation.image_px
    frame_hw = protocol.frame_hw or (side, side)
    for name in ("train_box", "test_box"):
        _check_box(name, getattr(protocol, name) or (0, 0, *frame_hw), frame_hw)
    whole = (0, 0, *frame_hw)
    views = DepthViews(
        frame_hw,
        protocol.train_box or whole,
        protocol.crop_hw or frame_hw,
        protocol.rotation_deg,
        protocol.distort,
    )
    encode = patch_encoder(evaluation, protocol.layers)
    train = make_depth_trainer(
        encode,
        views,
        protocol.bins,
        lr=protocol.learning_rate,
        weight_decay=protocol.weight_decay,
        warmup_steps=protocol.warmup_steps,
        steps=protocol.steps,
        clip_grad=protocol.clip_grad,
    )
    judge = make_depth_judge(
        encode,
        protocol.bins,
        frame_hw=frame_hw,
        box=protocol.test_box or whole,
        flip=protocol.test_flip,
    )
    batch, params = protocol.batch_size, evaluation.encoder.params
    how = reading(evaluation, batch, protocol.canvas_px, "depth.batch_size")

    def run(seed: int) -> dict[str, float]:
        shown = shuffled(evaluation.records.train, protocol.steps, batch, seed)
        with contextlib.closing(depth_batches(shown, **how)) as batches:
            head = train(params, examples(batches), seed)
        with contextlib.closing(depth_batches(evaluation.records.test, **how)) as batches:
            return judge(params, head, batches)

    yield from over_seeds(run, protocol.seeds, evaluation.keep)


DEPTH = Task(DepthProtocol, frozenset({"depth"}), _run, cuts=False, whole_patches=False)
