"""The published depth head: crops keep image and depth together, and it learns from features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import reduce

from dinojax.data.map_batches import depth_batches
from dinojax.data.records import Record
from dinojax.evaluation.depth_head import (
    Bins,
    examples,
    make_depth_judge,
    make_depth_trainer,
)
from dinojax.evaluation.depth_views import DepthViews, distort
from dinojax.evaluation.head_training import shuffled
from dinojax.evaluation.ridge import LinearHead

FRAME, PATCH, STEPS = (16, 24), 4, 120
VIEWS = DepthViews(FRAME, (0, 0, *FRAME), (12, 16), distort=False)
BINS = Bins(0.1, 10.0, 32)


class Slopes:
    """Grey level 40 x depth + 5: planes of 1..6 m; the top row is unknown, and black."""

    class_names = None

    def __len__(self) -> int:
        return 12

    def record_id(self, index: int) -> str:
        return f"slope/{index}"

    def __getitem__(self, index: int) -> Record:
        rng = np.random.default_rng(index)
        low, high = np.sort(rng.uniform(1, 6, 2))
        depth = np.linspace(low, high, FRAME[1], dtype=np.float32)[None].repeat(FRAME[0], 0)
        depth[0] = 0
        image = np.where(depth > 0, 40 * depth + 5, 0)[..., None].repeat(3, -1).astype(np.uint8)
        return Record(image, self.record_id(index), depth=depth)


def encode(params, images, content):
    """Mean colours of patches, and their squares."""
    shown = jnp.where(content[..., None], images / 255, 0)
    mean = reduce(shown, "b (h p) (w q) C -> b h w C", "mean", p=PATCH, q=PATCH)
    return jnp.concatenate([mean * params["scale"], mean**2], -1)


PARAMS = {"scale": jnp.array(1.0)}


def test_crops():
    """Image and depth are turned, cut and mirrored together."""
    record = Slopes()[3]
    keys = jax.random.split(jax.random.key(0), 32)
    given = jnp.asarray(record.image), jnp.array(FRAME), jnp.asarray(record.depth)
    views = dataclasses.replace(VIEWS, rotation_deg=20.0)
    image, content, depth = jax.jit(jax.vmap(lambda key: views(key, *given)))(keys)
    known = np.asarray(depth) > 0
    off = np.abs(np.asarray(image)[..., 0] - (40 * np.asarray(depth) + 5))
    # A pixel of the map is the nearest, of the image between four, with rounded levels.
    step = 40 * float(np.diff(record.depth[1, :2])[0])
    apart = known & np.roll(known, 1, 1)  # from the black row
    apart[:, 0] = False
    assert off[apart].max() < step + 1.1
    assert known.mean() > 0.8 and (np.asarray(content) >= known).all()
    rising = np.asarray(depth[:, 5, 12] > depth[:, 5, 3])
    assert 4 < rising.sum() < 28  # half are mirrored
    upright = np.ptp(np.asarray(depth)[:, 4:], axis=1).max(1) == 0
    assert 4 < upright.sum() < 28  # half are turned


def test_colours():
    image = jnp.full((2, 2, 3), 127.5)
    plain = jnp.full(6, 0.5).at[0].set(0.9)
    np.testing.assert_array_equal(distort(image, plain), image)
    found = distort(image, jnp.array([0.0, 1.0, 0.0, 0.0, 0.5, 1.0]))
    expected = 255 * 0.5**1.1 * 0.75 * np.array([0.9, 1.0, 1.1])
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-4)


@pytest.fixture(scope="module")
def head():
    trainer = make_depth_trainer(
        encode,
        VIEWS,
        BINS,
        lr=0.1,
        weight_decay=1e-4,
        warmup_steps=10,
        steps=STEPS,
        clip_grad=35.0,
    )
    return trainer(PARAMS, examples(depth_batches(shuffled(Slopes(), STEPS, 4, 0), 4, 24)), 0)


def judge(head, **changes):
    given = {"bins": BINS, "frame_hw": FRAME, "box": (2, 0, *FRAME), "flip": True} | changes
    return make_depth_judge(encode, **given)(PARAMS, head, depth_batches(Slopes(), 8, 24))


@pytest.mark.slow
def test_learns_what_features_tell(head):
    errors = judge(head)
    constant = LinearHead(jnp.zeros((6, 32)), jnp.zeros(32))
    blind = judge(constant)
    assert errors["rmse"] < 0.5 * blind["rmse"] and errors["delta1"] > blind["delta1"] + 0.2
    assert errors["delta1"] <= errors["delta2"] <= errors["delta3"] <= 1


def test_errors_are_means_over_images():
    """A head that says 5.05 m everywhere, against the depths themselves."""
    found = judge(LinearHead(jnp.zeros((6, 32)), jnp.zeros(32)))
    true = np.stack([Slopes()[i].depth[2:] for i in range(12)])
    expected = np.sqrt(np.square(true - 5.05).mean((1, 2))).mean()
    assert found["rmse"] == pytest.approx(expected, rel=1e-3)
    expected = (np.maximum(true / 5.05, 5.05 / true) < 1.25).mean()
    assert found["delta1"] == pytest.approx(expected, rel=1e-3)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"box=\(0, 0, 17, 24\) must be .*; use \(0, 0, 16, 24\)"):
        DepthViews(FRAME, (0, 0, 17, 24), (12, 16))
    with pytest.raises(ValueError, match=r"crop_hw=\(12, 30\) must fit .*; use \(16, 24\)"):
        DepthViews(FRAME, (0, 0, *FRAME), (12, 30))
    with pytest.raises(ValueError, match=r"depth between 7\.0 and 10\.0 m"):
        judge(LinearHead(jnp.zeros((6, 32)), jnp.zeros(32)), bins=Bins(7.0, 10.0, 32))
    with pytest.raises(ValueError, match="depths of 12 of 12 images are not finite; lower depth"):
        judge(LinearHead(jnp.full((6, 32), jnp.nan), jnp.zeros(32)))
