"""The published head: its loss by hand, and that it learns what features tell."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from einops import reduce

from dinojax.data.map_batches import map_batches
from dinojax.data.records import Record
from dinojax.evaluation.head_training import make_trainer, shuffled
from dinojax.evaluation.one_cycle import segmentation_rate
from dinojax.evaluation.segmentation_head import (
    examples,
    make_segmentation_judge,
    make_segmentation_trainer,
    pixel_cross_entropy,
)
from dinojax.evaluation.segmentation_views import SegmentationViews
from dinojax.evaluation.sliding import Windows

PX, PATCH, STEPS = 32, 4, 30


def test_loss():
    """One patch in each of two images of four pixels; one pixel ignored, one image not valid."""
    scores = jnp.log(jnp.array([0.5, 0.25, 0.25]))[None, None, None].repeat(2, 0)
    labels = jnp.array([[[0, 1], [-1, 2]], [[0, 0], [0, 0]]])
    found = pixel_cross_entropy(scores, labels, jnp.array([True, False]))
    assert float(found) == pytest.approx((np.log(2) + 2 * np.log(4)) / 8, rel=1e-5)


class Disks:
    """A bright disk on a dark ground, somewhere: class 7 on class 2."""

    class_names = None

    def __len__(self) -> int:
        return 12

    def record_id(self, index: int) -> str:
        return f"disk/{index}"

    def __getitem__(self, index: int) -> Record:
        rng = np.random.default_rng(index)
        y, x = np.mgrid[:PX, :PX]
        disk = np.hypot(y - rng.uniform(8, 24), x - rng.uniform(8, 24)) < 8
        noise = rng.integers(0, 40, (PX, PX, 3))
        image = (noise + np.where(disk, 180, 40)[..., None]).astype(np.uint8)
        return Record(image, self.record_id(index), segmentation=np.where(disk, 7, 2).astype("u1"))


def encode(params, images, content):
    """Mean colours of patches."""
    shown = jnp.where(content[..., None], images / 255 - params["mean"], 0)
    return reduce(shown, "b (h p) (w q) C -> b h w C", "mean", p=PATCH, q=PATCH)


PARAMS = {"mean": jnp.array(0.5)}


@pytest.fixture(scope="module")
def train():
    trainer = make_segmentation_trainer(
        encode,
        SegmentationViews(crop_px=16, short_px=PX, scale=(1.0, 1.0), tries=2),
        (2, 7),
        rate=segmentation_rate(0.1, 3, STEPS),
        weight_decay=1e-3,
        dropout=0.1,
    )

    def run(seed: int):
        batches = map_batches(shuffled(Disks(), STEPS, 4, seed), 4, PX)
        return trainer(PARAMS, examples(batches), seed)

    return run


def test_learns_what_features_tell(train):
    """From crops of 16 px, and tested on whole images of 32 in windows of 16."""

    judge = make_segmentation_judge(encode, (2, 7), Windows(16, 8, PX))

    def miou(head):
        return judge(PARAMS, head, map_batches(Disks(), 4, PX))

    head = train(0)
    scores = miou(head)
    assert scores.miou > 0.8 and set(scores.iou) == {2, 7}
    backwards = head._replace(weights=-head.weights, bias=-head.bias)
    assert miou(backwards).miou < 0.2


def test_a_run_is_a_function_of_its_seed(train):
    first, again, other = train(1), train(1), train(2)
    np.testing.assert_array_equal(first.weights, again.weights)
    assert np.abs(first.weights - other.weights).max() > 1e-3


def test_no_batches():
    trainer = make_trainer(
        encode, lambda *_: _, lambda *_: 0.0, optax.sgd(1.0), outputs=2, dropout=0.0
    )
    with pytest.raises(ValueError, match="there are no training batches"):
        trainer(PARAMS, [], 0)


def test_epochs_have_orders_of_their_own():
    source = Disks()
    ids = [shuffled(source, 6, 4, seed).record_id(i) for seed in (0, 1) for i in range(24)]
    epochs = [ids[i : i + 12] for i in range(0, 48, 12)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert {tuple(sorted(epoch)) for epoch in epochs} == {tuple(sorted(epochs[0]))}
