"""Global features: which crop the backbone sees, of which layers, and on any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from images import smooth

from dinojax import mesh
from dinojax.evaluation.features import centre_box, centre_crops
from dinojax.evaluation.global_features import make_global_encoder, usable_layers
from dinojax.models.convnext import ConvNeXt
from dinojax.models.pixels import Pixels
from dinojax.models.vit import VisionTransformer
from dinojax.precision import POLICIES

F32 = POLICIES["float32"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLACES = jnp.arange(8)


@functools.cache
def model():
    backbone = VisionTransformer(
        embed_dim=16, depth=2, num_heads=2, patch_size=8, precision=F32, layerscale=None
    )
    init = jax.jit(backbone.init)
    return backbone, init(jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)))["params"]


def canvases() -> tuple[np.ndarray, np.ndarray]:
    images = [smooth(40 + i, 61) for i in range(8)]
    canvas = np.zeros((8, 64, 64, 3), np.uint8)
    for slot, image in zip(canvas, images, strict=True):
        slot[: image.shape[0], : image.shape[1]] = image
    return canvas, np.array([i.shape[:2] for i in images], np.int32)


@functools.cache
def encoder(**changes):
    options = {"layers": 2, "image_px": 16, "resize_px": 16, "mean": MEAN, "std": STD}
    return make_global_encoder(model()[0], **(options | changes))


@pytest.mark.parametrize(
    ("size", "image_px", "resize_px", "expected"),
    [
        ((40, 61), 1, 1, (0, 10, 40, 40)),
        ((256, 512), 224, 256, (16, 144, 224, 224)),
        ((100, 80), 224, 256, (15, 5, 70, 70)),
    ],
)
def test_the_middle_of_an_image(size, image_px, resize_px, expected):
    assert centre_box(jnp.array(size), image_px, resize_px).tolist() == list(expected)


@pytest.mark.slow
def test_layers_and_the_mean_patch():
    backbone, params = model()
    canvas, size = canvases()
    found = encoder()(params, canvas, size, PLACES)
    images = (np.asarray(centre_crops(canvas, size, 16)) / 255 - np.array(MEAN)) / np.array(STD)
    apply = jax.jit(backbone.apply, static_argnums=2, static_argnames="method")
    given = {"params": params}, jnp.asarray(images, jnp.float32)[None]
    first, last = apply(*given, (0, 1), method="intermediate")
    np.testing.assert_allclose(found.cls[:, 0], first.cls[0], atol=1e-4)
    np.testing.assert_allclose(found.cls[:, 1], last.cls[0], atol=1e-4)
    np.testing.assert_allclose(found.mean, last.patches[0].mean(1), atol=1e-4)


def test_all_of_an_image():
    """What lies beyond the middle counts, too."""
    _, params = model()
    canvas, size = canvases()
    edged = canvas.copy()
    edged[:, :, 56:60] = 255 - edged[:, :, 56:60]  # of 61 columns, the middle has 40 to 47
    for fit, differs in (("crop", False), ("whole", True)):
        encode = encoder(layers=1, fit=fit)
        found, other = (encode(params, one, size, PLACES).cls for one in (canvas, edged))
        assert (float(jnp.abs(found - other).max()) > 1e-3) == differs


def test_a_mesh_changes_nothing():
    _, params = model()
    canvas, size = canvases()
    alone = encoder()(params, canvas, size, PLACES)
    on = mesh.make_mesh(2, 4)
    with jax.set_mesh(on):
        placed = jax.device_put(params, mesh.shardings(on, params))
        split = encoder()(placed, canvas, size, PLACES)
    assert split.cls.sharding.spec[0] == mesh.BATCH_AXES
    np.testing.assert_allclose(split.cls, alone.cls, atol=1e-5)


def test_views_are_functions_of_their_number_and_the_records_place():
    _, params = model()
    canvas, size = canvases()
    first, second = (encoder(layers=1, view=view) for view in (0, 1))
    whole = first(params, canvas, size, PLACES).cls
    # Other neighbours, another slot: the same crop of the same record.
    turned = first(params, canvas[::-1], size[::-1], PLACES[::-1]).cls[::-1]
    np.testing.assert_allclose(whole, turned, atol=1e-5)
    for other in (second(params, canvas, size, PLACES), first(params, canvas, size, PLACES + 8)):
        assert (jnp.abs(whole - other.cls).max(axis=(1, 2)) > 1e-3).all()


def test_how_many_layers_have_one_width():
    assert usable_layers(model()[0], 4) == 2
    assert usable_layers(ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), precision=F32), 4) == 1
    assert usable_layers(Pixels(F32), 4) == 1
