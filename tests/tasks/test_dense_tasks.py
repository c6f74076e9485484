"""The tasks on maps, from records to scores, on a few scenes with raw pixels as features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import mesh as meshes
from dinojax.data.eval_records import EvalRecords
from dinojax.data.records import Record
from dinojax.data.scenes import ScenesSource
from dinojax.evaluation.depth_head import Bins
from dinojax.evaluation.propagation import Neighbours, hard_masks
from dinojax.evaluation.video_scores import region_similarity
from dinojax.models.pixels import Pixels
from dinojax.precision import POLICIES
from dinojax.tasks.correspondence import CORRESPONDENCE, CorrespondenceProtocol
from dinojax.tasks.depth import DEPTH, DepthProtocol
from dinojax.tasks.discovery import DISCOVERY, DiscoveryProtocol
from dinojax.tasks.knn import KNN
from dinojax.tasks.propagation import PROPAGATION, PropagationProtocol
from dinojax.tasks.segmentation import (
    SEGMENTATION,
    SegmentationProtocol,
    SegmentationTraining,
)
from dinojax.tasks.task import Encoder, Evaluation, Preparation

PX = 32
TRAINING = {"batch_size": 8, "warmup_steps": 2, "steps": 12}


class Still:
    """Two videos of scenes that do not move; one whose first frame has no object."""

    class_names = None

    def __init__(self):
        self._scenes = ScenesSource(3, image_px=PX, split="test")

    def __len__(self) -> int:
        return 9

    def record_id(self, index: int) -> str:
        return f"{index // 3}/{index % 3:05d}.png"

    def __getitem__(self, index: int) -> Record:
        scene = self._scenes[index // 3]
        map = np.zeros_like(scene.segmentation) if index == 6 else scene.segmentation
        return Record(scene.image, self.record_id(index), segmentation=map)


def evaluation(test, tmp_path) -> Evaluation:
    train = ScenesSource(16, image_px=PX, num_classes=2)
    backbone = Pixels(POLICIES["float32"], patch_size=4)
    return Evaluation(
        Encoder("0" * 16, backbone, {}, (0.5,) * 3, (0.25,) * 3),
        EvalRecords(train, test),
        {"train": "a", "test": "b"},
        Preparation(PX, PX, "crop", PX, 8, 60.0, tmp_path),
    )


def run(task, protocol, given: Evaluation, devices=1) -> dict[str, tuple[float, float | None]]:
    with jax.set_mesh(meshes.make_mesh(devices=jax.devices()[:devices])):
        return {score.metric: (score.value, score.spread) for score in task.run(protocol, given)}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Evaluation:
    test = ScenesSource(8, image_px=PX, num_classes=2, split="test")
    return evaluation(test, tmp_path_factory.mktemp("features"))


def test_segmentation_in_closed_form(scenes):
    found = run(SEGMENTATION, SegmentationProtocol(), scenes)
    assert set(found) == {"miou", "iou_0", "iou_1", "iou_2"}
    assert all(spread is None for _, spread in found.values())
    assert found["miou"][0] == pytest.approx(np.mean([found[f"iou_{i}"][0] for i in range(3)]))
    ignored = run(SEGMENTATION, SegmentationProtocol(ignored=(2,)), scenes)
    assert set(ignored) == {"miou", "iou_0", "iou_1"}
    chosen = run(SEGMENTATION, SegmentationProtocol(classes=(1, 2)), scenes)
    assert set(chosen) == {"miou", "iou_1", "iou_2"}


@pytest.mark.slow
def test_segmentation_with_a_trained_head(scenes):
    training = SegmentationTraining(learning_rate=0.05, test_flip=True, **TRAINING)
    protocol = SegmentationProtocol("linear", linear=training, seeds=(0, 1))
    found = run(SEGMENTATION, protocol, scenes, devices=4)
    value, spread = found["miou"]
    assert 0.1 < value < 1 and spread is not None and 0 < spread < 0.5


def test_depth(scenes):
    """Scenes lie within 6 m; even a head that has learnt little knows that."""
    protocol = DepthProtocol(bins=Bins(0.5, 8.0, 16), learning_rate=0.05, seeds=(0,), **TRAINING)
    found = run(DEPTH, protocol, scenes)
    assert set(found) == {"rmse", "abs_rel", "delta1", "delta2", "delta3"}
    assert 0 < found["rmse"][0] < 3 and found["rmse"][1] is None
    assert found["delta1"][0] < found["delta2"][0] <= found["delta3"][0] <= 1


def test_correspondence(scenes):
    """Pixels find themselves where nothing moves, and seldom where much does."""
    still = CorrespondenceProtocol(angle_deg=0.0, scale=1.0, jitter=0.0, seeds=(0,))
    assert run(CORRESPONDENCE, still, scenes)["pck0.05"] == (1.0, None)
    found = run(CORRESPONDENCE, CorrespondenceProtocol(seeds=(0, 1)), scenes)
    values = [found[f"pck{alpha}"][0] for alpha in ("0.05", "0.1", "0.2")]
    assert 0 < values[0] < values[1] < values[2] < 0.9
    assert found["pck0.1"][1] > 0


@pytest.mark.parametrize("method", ["tokencut", "lost"])
def test_discovery(scenes, method):
    found = run(DISCOVERY, DiscoveryProtocol(method), scenes)
    for value, spread in found.values():
        assert 0 <= value <= 1 and spread is None
        assert (value * 8).is_integer()  # all eight scenes have objects
    none = run(DISCOVERY, DiscoveryProtocol(method, ignored=()), scenes)
    assert none["corloc_of_whole_image"] == (1.0, None)  # the ground is all around them


def test_propagation(tmp_path):
    """Where nothing moves and each patch takes its own mask, the scores are those of the grid."""
    protocol = PropagationProtocol(neighbours=Neighbours(topk=1))
    found = run(PROPAGATION, protocol, evaluation(Still(), tmp_path))
    regions = []
    for place in (0, 3):  # the third video's first frame has no object
        map = Still()[place].segmentation
        shares = jnp.asarray(map[2::4, 2::4, None] == [0, map.max()], float)
        shown = np.asarray(hard_masks(shares, (PX, PX))) == 1
        regions.append(region_similarity(shown, map > 0))
    assert found["j"] == (pytest.approx(np.mean(regions)), None)
    assert found["jf"][0] == pytest.approx((found["j"][0] + found["f"][0]) / 2)


def test_what_cannot_be_asked(scenes):
    with pytest.raises(ValueError, match=r"segmentation\.head='knn' is unknown"):
        run(SEGMENTATION, SegmentationProtocol("knn"), scenes)
    with pytest.raises(ValueError, match="schedule='sine' is unknown; use one of one_cycle, poly"):
        linear = SegmentationTraining(schedule="sine")
        run(SEGMENTATION, SegmentationProtocol("linear", linear=linear), scenes)
    with pytest.raises(ValueError, match=r"depth\.batch_size=12 must be .* the 8 devices .*use 16"):
        run(DEPTH, DepthProtocol(batch_size=12), scenes, devices=8)
    box = r"depth\.test_box=\(4, 0, 33, 32\) is no .* within frames of 32 x 32 px"
    with pytest.raises(ValueError, match=box):
        run(DEPTH, DepthProtocol(test_box=(4, 0, 33, 32)), scenes)
    with pytest.raises(ValueError, match=r"discovery\.method='sam' is unknown"):
        run(DISCOVERY, DiscoveryProtocol("sam"), scenes)
    with pytest.raises(ValueError, match=r"correspondence\.alphas is empty"):
        run(CORRESPONDENCE, CorrespondenceProtocol(alphas=()), scenes)


def test_protocols_name_what_they_depend_on(scenes):
    assert KNN.shared(scenes) == scenes.protocol
    for task in (SEGMENTATION, DEPTH, CORRESPONDENCE, DISCOVERY, PROPAGATION):
        assert scenes.protocol.keys() - task.shared(scenes) == {"resize_px", "fit"}
    assert [task.whole_patches for task in (SEGMENTATION, DEPTH, PROPAGATION)] == [
        True,
        False,
        False,
    ]


def test_layers_of_a_backbone(scenes):
    """Raw pixels have one."""
    with pytest.raises(ValueError, match=r"layers=4 must lie in 1\.\.1"):
        run(DEPTH, DepthProtocol(layers=4), scenes)
