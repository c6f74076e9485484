"""Every augmentation against torchvision and DINOv3: pixels from recorded choices, and the odds."""

import fnmatch
import re
from functools import partial

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adjustments import adjust
from torch_resize import resize_uint8

from dinojax.views import blur, colour
from dinojax.views.boxes import BOX_DRAWS, choose_box
from dinojax.views.colour import normalise
from dinojax.views.draws import draw
from dinojax.views.params import Colour, CropParams, Geometry, Photometric, sample_params
from dinojax.views.recipe import ViewRecipe
from dinojax.views.render import render
from dinojax.views.resample import resize, resized_crop

pytestmark = pytest.mark.golden

OPS, PIPELINE = "augment/ops.npz", "augment/pipeline.npz"
TRACE, STATS = "augment/pipeline_trace.json", "augment/stats.json"
DRAWS = 4000
SEMS = 5


def judge(path: str, name: str, value: jax.Array, *, rounded: bool) -> None:
    """Apply the limits of the first `accept` pattern of the manifest that matches the array."""
    accept = goldens.entry(path)["accept"]
    limits = next(v for k, v in accept.items() if k != "unit" and fnmatch.fnmatch(name, k))
    expected = goldens.arrays(path)[name].astype(np.float64)
    value = np.asarray(value, np.float64)
    assert value.shape == expected.shape, name
    error = np.abs((np.rint(value) if rounded else value) - expected)
    statistic = {"max": error.max(), "max_abs": error.max(), "mean": error.mean()}
    for kind, limit in limits.items():
        assert statistic[kind] <= limit, f"{name}: {kind} {statistic[kind]:.4g} exceeds {limit}"


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -3, -1)


def channels_first(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, -3)


# ---- single operations -------------------------------------------------------------------------

blurred = jax.jit(blur.gaussian_blur)
crop = jax.jit(resized_crop, static_argnums=2)
JITTER = {
    "brightness": colour.BRIGHTNESS,
    "contrast": colour.CONTRAST,
    "saturation": colour.SATURATION,
    "hue": colour.HUE,
}


def run_op(name: str, image: jax.Array) -> jax.Array:
    if match := re.fullmatch(r"(brightness|contrast|saturation|hue)(.+)", name):
        return adjust(image, JITTER[match[1]], float(match[2]))
    if match := re.fullmatch(r"blur9_sigma(.+)", name):
        return blurred(image, float(match[1]))
    if match := re.fullmatch(r"solarize(.+)", name):
        return colour.solarize(image, float(match[1]))
    if match := re.fullmatch(r"resized_crop/\d+_(\d+)_(\d+)_(\d+)_(\d+)/size(\d+)", name):
        *box, size = map(int, match.groups())
        return crop(image, jnp.asarray(box), size)
    if name == "grayscale":
        return jnp.broadcast_to(colour.to_grey(image), image.shape)
    if name == "hflip":
        # The flip lives in the columns' weights of a crop: here the square ones of a full width.
        side = min(image.shape[:2])
        boxes = [jnp.asarray((0, left, side, side)) for left in (0, image.shape[1] - side)]
        left, right = (crop(image, box, side, flip=True) for box in boxes)
        return jnp.concatenate([right, left[:, 2 * side - image.shape[1] :]], axis=1)
    raise NotImplementedError(f"golden operation {name}")


@pytest.mark.parametrize(
    "name", [n for n in goldens.arrays(OPS) if n != "image" and not n.endswith("_f32")]
)
def test_operation(name):
    image = jnp.asarray(goldens.arrays(OPS)["image"], jnp.float32)
    judge(OPS, name, run_op(name, image), rounded=True)


def test_normalise():
    image = jnp.asarray(goldens.arrays(OPS)["image"], jnp.float32)
    value = normalise(image, ViewRecipe().rgb_mean, ViewRecipe().rgb_std)
    judge(OPS, "normalize_f32", channels_first(value), rounded=False)


def test_tensor_resize():
    out_hw = goldens.arrays(OPS)["tensor_resize_bicubic_f32"].shape[1:]
    normalised = jnp.asarray(channels_last(goldens.arrays(OPS)["normalize_f32"]))
    value = jax.jit(resize, static_argnums=1)(normalised, out_hw)
    judge(OPS, "tensor_resize_bicubic_f32", channels_first(value), rounded=False)


def test_evaluation_transform():
    notes = goldens.entry(OPS)["notes"]
    short, crop = map(int, re.search(r"resize_size=(\d+), crop_size=(\d+)", notes).groups())
    image = goldens.arrays(OPS)["image"]
    height, width = (side * short // min(image.shape[:2]) for side in image.shape[:2])
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    levels = resize_uint8(image, (height, width))
    levels = levels[top : top + crop, left : left + crop]
    value = normalise(jnp.asarray(levels, jnp.float32), ViewRecipe().rgb_mean, ViewRecipe().rgb_std)
    judge(OPS, "eval_transform_f32", channels_first(value), rounded=False)


# ---- whole pipelines with the recorded choices ---------------------------------------------------


def stack(trees: list) -> object:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def trace_colour(ops: dict) -> Colour:
    jitter = ops.get("color_jitter")
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    factors = [jitter[n] for n in names] if jitter else colour.IDENTITY
    order = jitter["fn_idx"] if jitter else range(4)
    return Colour(np.asarray(factors), np.asarray(list(order)), np.asarray("grayscale" in ops))


def trace_params(trace: dict, recipe: ViewRecipe) -> CropParams:
    views = [{op["op"]: op for op in view} for view in trace["views"]]

    def geometry(ops: dict) -> Geometry:
        box = np.asarray([ops["crop"][k] for k in ("top", "left", "height", "width")])
        return Geometry(box, np.asarray("hflip" in ops))

    def photometric(ops: dict) -> Photometric:
        return Photometric(
            colour=None if recipe.share_color_jitter else trace_colour(ops),
            blur_sigma=np.asarray(ops["blur"]["sigma"][0] if "blur" in ops else 0.0),
            solarize=np.asarray("solarize" in ops),
        )

    shared = trace_colour({op["op"]: op for op in trace["shared"]})
    return CropParams(
        shared_colour=shared if recipe.share_color_jitter else None,
        global_geometry=stack([geometry(v) for v in views[:2]]),
        local_geometry=stack([geometry(v) for v in views[2:]]),
        photometric=(
            photometric(views[0]),
            photometric(views[1]),
            stack([photometric(v) for v in views[2:]]),
        ),
    )


@pytest.mark.parametrize("config", list(goldens.options(PIPELINE)["configs"]))
def test_pipeline(config):
    traces = {k: v for k, v in goldens.read_json(TRACE).items() if k.startswith(config + "/")}
    locals_ = len(next(iter(traces.values()))["views"]) - 2
    options = goldens.options(PIPELINE)["configs"][config]
    recipe = ViewRecipe(local_crops_number=locals_, **options)
    image = goldens.arrays(PIPELINE)["image"]
    canvas = np.full((max(image.shape), max(image.shape), 3), 77, np.uint8)  # padding is not read
    canvas[: image.shape[0], : image.shape[1]] = image
    run = jax.jit(partial(render, recipe=recipe))
    for case, trace in traces.items():
        crops = run(canvas, jnp.asarray(image.shape[:2]), trace_params(trace, recipe))
        judge(PIPELINE, f"{case}/global_crops", channels_first(crops.global_crops), rounded=False)
        judge(PIPELINE, f"{case}/local_crops", channels_first(crops.local_crops), rounded=False)
        name = f"{case}/gram_teacher_crops"
        assert (crops.gram_crops is not None) == (name in goldens.arrays(PIPELINE))
        if crops.gram_crops is not None:
            judge(PIPELINE, name, channels_first(crops.gram_crops), rounded=False)


# ---- the odds ----------------------------------------------------------------------------------


def check_quantiles(ours: np.ndarray, quantiles: dict[str, float], theirs_n: float) -> None:
    """Their inner quantiles are ours: the share of our draws below each is the nominal one."""
    for percent, value in quantiles.items():
        level = float(percent) / 100
        if not 0 < level < 1:
            continue
        slack = SEMS * np.sqrt(level * (1 - level) * (1 / len(ours) + 1 / theirs_n))
        close = 1e-6 * max(1, abs(value))
        assert (ours < value - close).mean() - slack <= level, (percent, value)
        assert (ours <= value + close).mean() + slack >= level, (percent, value)


def check_mean(ours: np.ndarray, mean: float, sem: float) -> None:
    allowed = SEMS * np.hypot(sem, ours.std() / np.sqrt(len(ours))) + 1e-6
    assert abs(ours.mean() - mean) <= allowed, (ours.mean(), mean, allowed)


def check_frequency(ours: np.ndarray, frequency: float, theirs_n: int) -> None:
    pooled = (ours.sum() + frequency * theirs_n) / (len(ours) + theirs_n)
    allowed = SEMS * np.sqrt(pooled * (1 - pooled) * (1 / len(ours) + 1 / theirs_n))
    assert abs(ours.mean() - frequency) <= allowed, (ours.mean(), frequency)


@partial(jax.jit, static_argnums=2)
def sample_boxes(keys: jax.Array, size_hw: jax.Array, scale: tuple[float, float]) -> jax.Array:
    return jax.vmap(lambda k: choose_box(draw(k, **BOX_DRAWS), size_hw, scale))(keys)


@pytest.mark.parametrize("case", list(goldens.read_json(STATS)["random_resized_crop"]))
def test_box_distribution(case):
    expected = goldens.read_json(STATS)["random_resized_crop"][case]
    height, width, low, high = map(
        float, re.fullmatch(r"(\d+)x(\d+)/scale([\d.]+)-([\d.]+)", case).groups()
    )
    size = jnp.asarray((height, width), jnp.int32)
    keys = jax.random.split(jax.random.key(1), DRAWS)
    boxes = np.asarray(sample_boxes(keys, size, (low, high)), float)
    top, left, h, w = boxes.T
    area, ratio = h * w / (height * width), np.log(w / h)
    n = expected["n"]
    check_quantiles(area, expected["area_quantiles"], n)
    check_quantiles(ratio, expected["log_ratio_quantiles"], n)
    check_mean(area, expected["area_mean"], expected["area_sem"])
    check_mean(ratio, expected["log_ratio_mean"], expected["log_ratio_sem"])
    for offset, slack, name in ((top, height - h, "top"), (left, width - w, "left")):
        place = np.where(slack > 0, offset / np.maximum(slack, 1), 0.5)
        check_mean(place, expected[f"rel_{name}_mean"], place.std() / np.sqrt(n))


def test_sampled_params():
    stats = goldens.read_json(STATS)
    options = goldens.options(STATS)
    size = jnp.asarray(options["image_hw"], jnp.int32)
    recipe = ViewRecipe(
        global_crops_scale=tuple(options["global_scale"]),
        local_crops_scale=tuple(options["local_scale"]),
        local_crops_number=2,
    )
    keys = jax.random.split(jax.random.key(2), DRAWS)
    params = jax.jit(jax.vmap(lambda k: sample_params(k, size, recipe)))(keys)
    views = {
        "global1": (jax.tree.map(lambda x: x[:, 0], params.global_geometry), params.photometric[0]),
        "global2": (jax.tree.map(lambda x: x[:, 1], params.global_geometry), params.photometric[1]),
        "local": jax.tree.map(lambda x: x[:, 1], (params.local_geometry, params.photometric[2])),
    }
    assert views.keys() == stats["views"].keys()
    for name, (geometry, photometric) in views.items():
        check_view(geometry, photometric, size, stats["views"][name])


def check_view(geometry: Geometry, photometric: Photometric, size: jax.Array, expected: dict):
    factors, order, grey = map(np.asarray, photometric.colour)
    jittered = (factors != np.asarray(colour.IDENTITY)).any(axis=1)
    never = np.zeros(DRAWS)
    sigma = never if photometric.blur_sigma is None else np.asarray(photometric.blur_sigma)
    solarized = never if photometric.solarize is None else np.asarray(photometric.solarize)
    happened = {
        "hflip": np.asarray(geometry.flip),
        "color_jitter": jittered,
        "grayscale": grey,
        "blur": sigma > 0,
        "solarize": solarized,
    }
    assert happened.keys() == expected["frequency"].keys()
    for op, mask in happened.items():
        check_frequency(mask, expected["frequency"][op], expected["n"])

    _, _, h, w = np.asarray(geometry.box, float).T
    draws = dict(
        zip(("brightness", "contrast", "saturation", "hue"), factors[jittered].T, strict=True)
    )
    draws |= {"area": h * w / np.prod(size), "log_ratio": np.log(w / h), "sigma": sigma[sigma > 0]}
    draws |= {"first_op": order[jittered, 0]}
    assert set(expected["mean"]) <= set(draws)
    share = {"sigma": "blur"} | dict.fromkeys(
        ("brightness", "contrast", "saturation", "hue"), "color_jitter"
    )
    for quantity, mean in expected["mean"].items():
        check_mean(draws[quantity], mean, expected["sem"][quantity])
    for quantity, quantiles in expected["quantiles"].items():
        used = expected["frequency"][share[quantity]] if quantity in share else 1
        check_quantiles(draws[quantity], quantiles, used * expected["n"])
