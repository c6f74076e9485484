"""What one pass over images gives: measures of modules of their own, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import mesh as meshes
from dinojax.evaluation.features import make_dense_encoder
from dinojax.evaluation.locality import drift, locality
from dinojax.evaluation.patch_norms import patch_norm_outliers
from dinojax.evaluation.watched import make_watching_encoder
from dinojax.models.convnext import ConvNeXt
from dinojax.models.vit import VisionTransformer
from dinojax.precision import get_precision

PRECISION = get_precision("float32")
STATISTICS = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
RNG = np.random.default_rng(0)
CANVAS = RNG.integers(0, 256, (16, 32, 32, 3), np.uint8)
SIZE = np.full((16, 2), 32, np.int32)


@pytest.fixture(scope="module")
def vit():
    backbone = VisionTransformer(16, 1, 2, PRECISION, patch_size=8, n_storage_tokens=2)
    params = backbone.init(jax.random.key(0), jnp.zeros((1, 1, 32, 32, 3)))["params"]
    return backbone, jax.tree.map(
        lambda leaf: leaf + np.float32(0.3 * RNG.normal(size=leaf.shape)), params
    )


@pytest.fixture(scope="module")
def seen(vit):
    backbone, params = vit
    return make_watching_encoder(backbone, image_px=32, **STATISTICS)(params, CANVAS, SIZE)


def test_measures(vit, seen):
    backbone, params = vit
    cls, grid = make_dense_encoder(backbone, image_px=32, **STATISTICS)(params, CANVAS, SIZE)
    np.testing.assert_allclose(seen.cls, cls, atol=1e-5)
    np.testing.assert_allclose(seen.locality, locality(grid), atol=1e-4)
    np.testing.assert_allclose(seen.drift, drift(cls, grid), atol=1e-5)
    patches = np.asarray(grid).reshape(16, 16, -1)
    apart = np.abs(patches - np.asarray(seen.patch)[:, None]).max(axis=-1)
    places = apart.argmin(axis=1)
    assert apart.min(axis=1).max() < 1e-5
    assert len(set(places.tolist())) >= 8  # spread over the grid


def test_norms_are_those_of_patches_before_the_final_norm(vit, seen):
    """Registers with huge norms do not count."""
    backbone, params = vit
    images = jnp.asarray(CANVAS / np.float32(255))
    (features,) = backbone.apply({"params": params}, ((images - 0.5) / 0.2)[None])
    prenorm = features.prenorm[0]
    assert prenorm.shape[1] == 16 + 3
    np.testing.assert_allclose(seen.patch_norm_outliers, patch_norm_outliers(prenorm[:, 3:]))


def test_several_devices_see_the_same(vit, seen):
    backbone, params = vit
    with jax.set_mesh(meshes.make_mesh()):
        encode = make_watching_encoder(backbone, image_px=32, **STATISTICS)
        shared = jax.device_get(encode(params, CANVAS, SIZE))
    for name, one in zip(seen._fields, seen, strict=True):
        np.testing.assert_allclose(getattr(shared, name), one, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_convnext_has_patches_too():
    backbone = ConvNeXt((1, 1, 1, 1), (4, 4, 4, 8), PRECISION)
    params = backbone.init(jax.random.key(0), jnp.zeros((1, 1, 64, 64, 3)))["params"]
    canvas = RNG.integers(0, 256, (2, 64, 64, 3), np.uint8)
    encode = make_watching_encoder(backbone, image_px=64, **STATISTICS)
    found = encode(params, canvas, np.full((2, 2), 64, np.int32))
    assert found.patch.shape == (2, 8) and np.isfinite(np.asarray(found.locality)).all()
