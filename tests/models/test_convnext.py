"""What holds for every ConvNeXt; the golden files and parity tests check its numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import trees
from dinojax.models.convnext import ConvNeXt
from dinojax.models.convnext_block import ConvNeXtBlock, LayerGains, drop_path_gains
from dinojax.models.features import CropDraws
from dinojax.precision import POLICIES

MODEL = ConvNeXt((1, 1, 2, 1), (4, 4, 8, 8), POLICIES["float32"], layerscale=1.0, init_std=0.3)
LARGE = jax.random.normal(jax.random.key(1), (2, 3, 64, 96, 3))
SMALL = jax.random.normal(jax.random.key(2), (2, 2, 32, 32, 3))


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(jax.random.key(0), SMALL)["params"]


def test_crop_sizes_and_groups_do_not_mix(params):
    run = jax.jit(lambda *crops: MODEL.apply({"params": params}, *crops))
    both, alone = run(LARGE, SMALL), run(LARGE[1:, :2])
    assert both[0].cls.shape == (2, 3, 8) and both[0].patches.shape == (2, 3, 6, 8)
    assert both[1].cls.shape == (2, 2, 8) and both[1].patches.shape == (2, 2, 1, 8)
    assert both[0].registers.shape == (2, 3, 0, 8)
    np.testing.assert_allclose(both[0].patches[1:, :2], alone[0].patches, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(both[0].cls[1:, :2], alone[0].cls, rtol=1e-4, atol=1e-5)
    # One patch is its own mean.
    np.testing.assert_allclose(both[1].cls, both[1].patches[:, :, 0], rtol=1e-4, atol=1e-5)


def test_a_dropped_branch_is_absent(params):
    """With all gains 0 no block is left: images that differ in its weights alone are the same."""
    changed = trees.map_named(lambda p, x: x + 1 if "stage" in p else x, params)
    zeros = CropDraws(None, None, jnp.zeros((MODEL.depth, 2, 2)))
    run = jax.jit(lambda params: MODEL.apply({"params": params}, SMALL, draws=(zeros,))[0].cls)
    np.testing.assert_array_equal(run(params), run(changed))
    ones = CropDraws(None, None, jnp.ones((MODEL.depth, 2, 2)))
    whole = jax.jit(lambda: MODEL.apply({"params": params}, SMALL, draws=(ones,))[0].cls)()
    plain = jax.jit(lambda: MODEL.apply({"params": params}, SMALL)[0].cls)()
    np.testing.assert_allclose(whole, plain, rtol=1e-5, atol=1e-6)
    assert np.abs(plain - run(params)).max() > 1e-3


def test_the_gain_is_not_rounded():
    """In bfloat16 1 / 0.6 would be 1.6640625. Of an image of zeros a branch is its last bias."""
    block = ConvNeXtBlock(None, 0.3, POLICIES["bfloat16"])
    maps, gains = (jnp.zeros((1, 2, 2, 64), jnp.bfloat16),), (LayerGains(jnp.array([1 / 0.6])),)
    params = block.init(jax.random.key(0), maps, gains)["params"]
    bias = jax.random.normal(jax.random.key(1), (64,), jnp.bfloat16).astype(jnp.float32)
    params["pwconv2"]["bias"] = bias
    (found,) = block.apply({"params": params}, maps, gains)
    np.testing.assert_array_equal(found[0, 0, 0], (bias / 0.6).astype(jnp.bfloat16))


def test_gains_rise_in_rate_and_keep_the_expectation():
    uniform = jax.random.uniform(jax.random.key(0), (5, 4000))
    gains = np.asarray(drop_path_gains(uniform, 0.4))
    rates = [0, 0.1, 0.2, 0.3, 0.4]
    np.testing.assert_allclose((gains == 0).mean(axis=1), rates, atol=0.03)
    np.testing.assert_allclose(gains.max(axis=1), 1 / (1 - np.array(rates)), rtol=1e-6)
    np.testing.assert_allclose(gains.mean(axis=1), 1, atol=0.05)


def test_initial_weights():
    model = ConvNeXt((1, 1, 1, 1), (32, 32, 32, 64), POLICIES["float32"])
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 32, 32, 3)))["params"]
    params = trees.flatten(jax.jit(model.init)(jax.random.key(0), SMALL)["params"])
    assert trees.flatten(shapes).keys() == params.keys(), "whatever the image"
    for name, value in params.items():
        if name.endswith("kernel"):
            assert np.std(value) == pytest.approx(0.02, rel=0.1), name
        else:
            expected = {"scale": 1.0, "gamma": 1e-6, "bias": 0.0}[name.rpartition("/")[2]]
            np.testing.assert_allclose(value, expected, err_msg=name)


def test_refusals(params):
    variables = {"params": params}
    with pytest.raises(ValueError, match="no mask token"):
        MODEL.apply(variables, SMALL, masks=jnp.zeros((2, 2, 1), bool))
    with pytest.raises(ValueError, match="image of 31x32 px is smaller than one patch"):
        MODEL.apply(variables, SMALL[:, :, :31])
    with pytest.raises(ValueError, match=r"layers=\[4\] must be .* within 0..3: the stages"):
        MODEL.apply(variables, SMALL, [4], method=ConvNeXt.intermediate)
    short = ConvNeXt((1, 1), (4, 4), POLICIES["float32"])
    with pytest.raises(ValueError, match=r"depths=\(1, 1\) and dims=\(4, 4\) must have 4 entries"):
        jax.eval_shape(short.init, jax.random.key(0), SMALL)
