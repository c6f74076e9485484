"""`dinojax.load`: features are the backbone's, whatever is given; and what is refused, in words."""

import functools
import sys
from subprocess import check_output
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from small_models import add_presets, small_model
from trained_runs import make_run, small_config

import dinojax

KINDS = ("small16", "small14", "convnext_small_one")


@pytest.fixture(scope="module")
def models():
    with pytest.MonkeyPatch.context() as patch:
        add_presets(patch)
        return {name: small_model(f"random:{name}@1") for name in KINDS}


def images(model, rows: int = 2, columns: int = 3) -> np.ndarray:
    size = (3, rows * model.stride, columns * model.stride, 3)
    return np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)


def normalised(given: np.ndarray) -> np.ndarray:
    x = given / 255 - np.array([0.485, 0.456, 0.406])
    return (x / np.array([0.229, 0.224, 0.225])).astype(np.float32)


@pytest.mark.parametrize("name", slow_but(["small16"], KINDS))
def test_features(models, name):
    """Of pixels as of normalised floats; by number of the layer; patches in their places."""
    model, given = models[name], images(models[name])
    found = model.features(given)
    width = model.backbone.embed_dim
    registers = 4 if name == "small16" else 0
    assert {key: value.shape for key, value in found.items()} == {
        "cls": (3, width),
        "registers": (3, registers, width),
        "patches": (3, 2, 3, width),
    }
    apply = jax.jit(model.backbone.apply)
    (expected,) = apply({"params": model.params}, normalised(given)[None])
    floats = model.features(normalised(given))
    for key in found:
        assert found[key].dtype == np.float32
        flat = found[key].reshape(getattr(expected, key)[0].shape)
        np.testing.assert_allclose(flat, getattr(expected, key)[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(floats[key], found[key], rtol=1e-4, atol=1e-4)
    last, first, same = model.features(given, layers=[-1, 0, model.layers - 1])
    one = model.features(given, layers=0)
    for key in found:
        np.testing.assert_allclose(last[key], found[key], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(last[key], same[key])
        np.testing.assert_allclose(one[key], first[key], rtol=1e-5, atol=1e-5)
    assert abs(first["cls"]).max() > 0
    if name.startswith("convnext"):  # the stages' own maps, 4 px and 32 px
        assert first["patches"].shape[1:3] == (16, 24)
    assert model.shapes(*given.shape[1:3]) == {key: x.shape[1:] for key, x in found.items()}


def test_a_run(tmp_path):
    """Of its own normalisation, over all devices, which three images do not fill."""
    config = small_config(crops__rgb_mean=(0.5, 0.5, 0.5), crops__rgb_std=(0.5, 0.5, 0.5))
    state = make_run(tmp_path, config)
    model = dinojax.load(str(tmp_path))
    given = images(model)
    assert model.images.image_px == 16 and model.stride == 8
    x = (given / 127.5 - 1).astype(np.float32)
    (expected,) = jax.jit(model.backbone.apply)({"params": state.teacher["backbone"]}, x[None])
    np.testing.assert_allclose(model.features(given)["cls"], expected.cls[0], rtol=1e-3, atol=1e-3)


def test_attention_of_cls(models):
    """The softmax of the scaled products of CLS's query with all keys, in a NumPy computation."""
    for name in ("small14", "small16"):
        model = models[name]
        given = images(model)
        found = np.asarray(model.cls_attention(given, 1))
        assert found.shape == (3, 2, 2, 3)
        np.testing.assert_array_equal(found, model.cls_attention(given))
        inside = functools.partial(model.backbone.apply, norm=False, method="intermediate")
        (before,) = jax.jit(lambda p, x, f=inside: f({"params": p}, x, [0]))(
            model.params, jnp.asarray(normalised(given))[None]
        )
        block = jax.tree.map(lambda leaf: np.asarray(leaf[1], np.float64), model.params["blocks"])
        x = np.asarray(before.prenorm[0], np.float64)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = x * block["norm1"]["scale"] + block["norm1"]["bias"]
        qkv = block["attn"]["qkv"]
        gain = np.array([1, 0, 1] if model.backbone.mask_k_bias else [1, 1, 1])[:, None, None]
        q, k, _ = np.moveaxis(
            np.einsum("bnd,dihe->bnihe", x, qkv["kernel"]) + gain * qkv["bias"], 2, 0
        )
        if name == "small16":
            rotate = model.backbone.bind({"params": model.params})._rope(given.shape[1:3], None)
            q, k = (np.asarray(rotated(t, rotate)) for t in (q, k))
        logits = np.einsum("bhe,bnhe->bhn", q[:, 0], k) / np.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        patches = weights[..., -6:].reshape(3, 2, 2, 3)
        np.testing.assert_allclose(found, patches, rtol=1e-3, atol=1e-5)


def rotated(x, tables):
    from dinojax.kernels.rope import apply_rope

    return apply_rope(jnp.asarray(x, jnp.float32)[None], tables)[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": (1, 30, 32, 3)}, r"30x32 px: 30 is not a multiple of 16, .*; use 16 or 32"),
        ({"shape": (1, 16, 8, 3)}, "8 is not a multiple of 16, .*; use 16"),
        ({"shape": (16, 16, 3)}, r"shape \[16, 16, 3\]; give \[B, H, W, 3\], one image as images"),
        ({"shape": (1, 16, 16, 4)}, r"give \[B, H, W, 3\]"),
        ({"dtype": np.float64}, "images are float64; give a uint8 array"),
        ({"layers": [2]}, r"layers=\[2\]: random:small16@1 has layers 0\.\.1, .* -2\.\.-1"),
        ({"layers": []}, r"layers=\[\]"),
    ],
)
def test_what_is_refused(models, change, words):
    given = SimpleNamespace(**{"shape": (1, 16, 16, 3), "dtype": np.uint8, "layers": None} | change)
    with pytest.raises(ValueError, match=words):
        models["small16"].features(np.zeros(given.shape, given.dtype), layers=given.layers)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vits16", "use random:vits16, or the released dinov3_vits16"),
        ("vitl16", "use random:vitl16, or the released dinov3_vitl16 or dinov3_vitl16_sat493m"),
        ("vits14_reg", "use random:vits14_reg, or the released dinov2_vits14_reg"),
        ("vithuge2", "use random:vithuge2"),
    ],
)
def test_a_preset_alone(name, words):
    with pytest.raises(ValueError, match=f"^'{name}' is a preset without weights; {words}$"):
        dinojax.load(name)


def test_a_list_is_no_array(models):
    with pytest.raises(ValueError, match="images are list; give a uint8 array"):
        models["small16"].features([[1]])


def test_no_attention(models):
    with pytest.raises(ValueError, match="has no attention; use a vision transformer"):
        model = models["convnext_small_one"]
        model.cls_attention(images(model))


def test_the_package_alone_stays_light():
    """Its two functions are found, and JAX is imported by the first use of one only."""
    code = "import dinojax, sys; assert 'jax' not in sys.modules; print(dinojax.load.__module__)"
    assert check_output([sys.executable, "-c", code], text=True) == "dinojax.api\n"
    assert set(dinojax.__all__) == {"load", "embed"}
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = dinojax.lod
