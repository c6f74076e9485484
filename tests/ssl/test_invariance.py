"""One run on 1, 2, 4 and 8 devices: the same views, masks, losses, gradients and parameters."""

import functools
import itertools
import math
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import collectives
from pixels import assert_same_pixels
from spies import noting_inputs

from dinojax import mesh as meshes
from dinojax import trees
from dinojax.build import inputs as build_inputs
from dinojax.build import step as build
from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.config.validation import validate
from dinojax.data.pipeline import make_loader
from dinojax.ssl import step as ssl_step
from dinojax.training.compiled_step import global_batches
from dinojax.training.data import open_data

STEPS = 3
MESHES = [
    *((2, 1, 1), (1, 2, 1), (4, 1, 1), (1, 4, 1), (2, 2, 1), (8, 1, 1), (4, 2, 1), (2, 4, 1)),
    *((1, 8, 1), (1, 1, 2), (2, 1, 4), (2, 2, 2), (1, 1, 8)),
]
"""(data, fsdp, tensor) sizes."""
DEFAULT = {"float32": [(4, 2, 1)], "float64": []}
"""Each compiles a whole step (12 s of CPU); the others are slow tests."""
LIMITS = {
    "float32": {"losses": 1e-5, "gradients": 1e-5, "parameters": 1e-3},
    "float64": {"losses": 1e-9, "gradients": 1e-9, "parameters": 1e-9},
}

on_every_mesh = pytest.mark.parametrize(
    ("precision", "mesh"),
    [
        pytest.param(
            precision,
            mesh,
            id=f"{precision}-data{mesh[0]}-fsdp{mesh[1]}-tensor{mesh[2]}",
            marks=() if mesh in default else pytest.mark.slow,
        )
        for precision, default in DEFAULT.items()
        for mesh in MESHES
    ],
)


def config(precision: str) -> Config:
    """Every regulariser on; 8 draw groups of 4 images, leaves large enough to be split by fsdp.

    On eight devices a KoLeo group lies on two.

    With this depth and seed every crop keeps an attention branch (checked below). A crop that keeps
    none has a CLS feature that does not depend on its pixels: two such are equal, and the KoLeo
    gradient between equal rows is nothing but roundoff, on any number of devices. Nor does a bias
    have a gradient element near zero by chance: with seed 2 one is 3.5e-6 of its tensor's largest,
    known to 2e-7, and AdamW makes a whole step of 6 % error of it.
    """
    config = shrink(default_config())
    config.student.depth = 4
    config.student.num_heads = 8
    config.student.layerscale = 1.0
    config.student.drop_path_rate = 0.25
    config.student.pos_embed_rope_shift_coords = 0.1
    config.student.pos_embed_rope_jitter_coords = 1.5
    config.student.pos_embed_rope_rescale_coords = 2.0
    config.dino.head.n_prototypes, config.ibot.head.n_prototypes = 88, 104
    config.optim.lr.warmup_steps = config.optim.freeze_last_layer_steps = 0
    config.train.batch_size, config.train.draw_group_size = 32, 4
    config.dino.koleo_group_size = 8
    config.train.seed = 5
    config.train.precision = precision
    parsed = parse_config(config)
    validate(parsed, batch_shards=8)
    return parsed


class Run(NamedTuple):
    """What `STEPS` steps on one mesh have seen and done, on the host."""

    inputs: dict[str, np.ndarray]
    """Of the first step: crops, masks, draws."""
    grads: dict[str, np.ndarray]
    """Of the first step, before clipping."""
    losses: list[dict[str, float]]
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    hlo: str


def watched_step(config: Config):
    """The configuration's train step, returning its inputs and gradients as well."""
    step, seen = noting_inputs(config)

    def watched(state, batch):
        original = ssl_step.apply_gradients
        with pytest.MonkeyPatch.context() as patch:

            def spy(optimizer, state, grads, *rest):
                seen["grads"] = grads
                return original(optimizer, state, grads, *rest)

            patch.setattr(ssl_step, "apply_gradients", spy)
            outcome = step(state, batch)
        return *outcome, seen["inputs"], seen["grads"]

    return watched


@functools.cache
def initial_state(precision: str):
    """On the host."""
    return jax.device_get(jax.jit(build.build_init(config(precision)))())


@functools.cache
def host_batches(precision: str) -> list[dict]:
    given = config(precision)
    data = open_data(given)
    loader = make_loader(data.source, data.order, canvas_px=given.data.canvas_px)
    try:
        return list(itertools.islice(loader, STEPS))
    finally:
        loader.close()


@functools.cache
def run_on(precision: str, mesh_shape: tuple[int, int, int]) -> Run:
    """As in `dinojax.train`."""
    mesh = meshes.make_mesh(*mesh_shape, devices=jax.devices()[: math.prod(mesh_shape)])
    with jax.enable_x64(precision == "float64"), jax.set_mesh(mesh):
        state = initial_state(precision)
        before = trees.flatten(state.student)
        layout = meshes.shardings(mesh, state)
        state = jax.device_put(state, layout)
        placement = meshes.BatchLayout(mesh, config(precision).train.batch_size)
        batches = list(global_batches(iter(host_batches(precision)), placement))
        step = (
            jax.jit(
                watched_step(config(precision)),
                in_shardings=(layout, meshes.batch_sharding(mesh)),
                out_shardings=(layout, meshes.replicated(mesh), None, layout.student),
                donate_argnums=0,
            )
            .lower(state, batches[0])
            .compile()
        )
        losses, first = [], None
        for batch in batches:
            state, metrics, *watched = step(state, batch)
            losses.append({k: float(v) for k, v in metrics.items() if k.endswith("loss")})
            first = first or jax.device_get(watched)
            assert metrics["finite"]
        inputs, grads = (trees.flatten(tree) for tree in first)
        after = trees.flatten(jax.device_get(state.student))
        return Run(inputs, grads, losses, before, after, step.as_text())


def one_and_many(precision: str, mesh: tuple[int, int, int]) -> tuple[Run, Run]:
    return run_on(precision, (1, 1, 1)), run_on(precision, mesh)


def loss_deviations(one: Run, many: Run) -> dict[str, float]:
    """Of every term at every step, relative to the term's largest value over the steps.

    KoLeo is a mean of logarithms of both signs: near its zero crossing its own value is no measure.
    """
    largest = {name: max(abs(step[name]) for step in one.losses) for name in one.losses[0]}
    return {
        f"{name} of step {i}": abs(b[name] - a[name]) / largest[name]
        for i, (a, b) in enumerate(zip(one.losses, many.losses, strict=True))
        for name in a
    }


def gradient_deviations(one: Run, many: Run) -> dict[str, float]:
    """The largest of each tensor, relative to the tensor's largest element."""
    return {k: np.abs(many.grads[k] - g).max() / np.abs(g).max() for k, g in one.grads.items()}


def parameter_deviations(one: Run, many: Run) -> dict[str, float]:
    """Rms relative to the rms of the update, of each tensor and of all together."""

    def square(x, y) -> float:
        return np.square(np.subtract(x, y, dtype=np.float64)).sum()

    apart = {k: square(many.after[k], v) for k, v in one.after.items()}
    moved = {k: square(v, one.before[k]) for k, v in one.after.items()}
    ratios = {k: math.sqrt(apart[k] / moved[k]) for k in apart}
    return ratios | {"all together": math.sqrt(sum(apart.values()) / sum(moved.values()))}


def check(deviations: dict[str, float], limit: float) -> None:
    over = {k: f"{v:.2g}" for k, v in deviations.items() if not v <= limit}
    assert deviations and not over, f"over {limit}: {over}"


@on_every_mesh
def test_views_masks_and_draws_are_identical(precision, mesh):
    one, many = one_and_many(precision, mesh)
    assert {"global_crops", "local_crops", "masks", "mask_indices"} <= one.inputs.keys()
    assert any("kept" in name for name in one.inputs), "no stochastic depth"
    assert any("log_rescale" in name for name in one.inputs), "no RoPE augmentation"
    for name, expected in one.inputs.items():
        same = assert_same_pixels if name.endswith("_crops") else np.testing.assert_array_equal
        same(many.inputs[name], expected, err_msg=name)


@on_every_mesh
def test_losses(precision, mesh):
    check(loss_deviations(*one_and_many(precision, mesh)), LIMITS[precision]["losses"])


@on_every_mesh
def test_gradients(precision, mesh):
    check(gradient_deviations(*one_and_many(precision, mesh)), LIMITS[precision]["gradients"])


@on_every_mesh
def test_parameters(precision, mesh):
    check(parameter_deviations(*one_and_many(precision, mesh)), LIMITS[precision]["parameters"])


def test_fsdp_splits_weights_and_data_does_not():
    def split(*sizes: int) -> set[str]:
        mesh = meshes.make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
        layout = meshes.shardings(mesh, initial_state("float32").student)
        return {k for k, one in trees.flatten(layout).items() if not one.is_fully_replicated}

    assert {"backbone/blocks/mlp/fc1/kernel", "ibot_head/mlp_0/kernel"} <= split(4, 2, 1)
    assert not split(2, 1, 1)


def test_every_crop_keeps_an_attention_branch():
    given = config("float32")
    make_inputs = build_inputs.build_inputs(given)
    draws = jax.jit(lambda batch, step: make_inputs(batch, step).draws)
    rows = 2 * given.train.draw_group_size  # two global and two local crops per image
    for step, host in enumerate(host_batches("float32")):
        for crops in draws({k: jnp.asarray(host[k]) for k in ("canvas", "size")}, step):
            kept = np.asarray(crops.kept.attention)  # [L, G, m]
            assert all(set(group.ravel()) == set(range(rows)) for group in kept.swapaxes(0, 1))


def test_initial_state_is_identical():
    mesh = meshes.make_mesh(4, 2)
    init = build.build_init(config("float32"))
    layout = meshes.shardings(mesh, jax.eval_shape(init))
    with jax.set_mesh(mesh):
        state = jax.jit(init, out_shardings=layout)()
    jax.tree.map(np.testing.assert_array_equal, state, initial_state("float32"))


def weight_shapes(run: Run, fsdp: int) -> set[tuple[int, ...]]:
    """Shapes a weight, one layer of it or its part may have in a program, with axes merged."""
    shapes = set()
    for path, leaf in run.before.items():
        shape = leaf.shape[meshes.STACKED.search(path) is not None :]
        split = [(*shape[:i], n // fsdp, *shape[i + 1 :]) for i, n in enumerate(shape)]
        for part in (shape, *split):
            merged = [(math.prod(part[:i]), math.prod(part[i:])) for i in range(len(part))]
            pairs = [(*part[:i], n * m, *part[i + 2 :]) for i, (n, m) in enumerate(pairwise(part))]
            for dims in (part, *merged, *pairs):
                shapes.add(tuple(n for n in dims if n != 1))
    return shapes


def test_only_weights_travel_between_devices():
    """FSDP gathers weights; losses reduce to sums over rows. Of activations only the CLS features
    of a KoLeo group leave their devices, for the other device of the group."""
    run, given = run_on("float32", (4, 2, 1)), config("float32")
    weights, group = weight_shapes(run, fsdp=2), {(8, 64)}
    found = collectives(run.hlo)
    gathered = {shape for kind, shape in found if kind == "all-gather"}
    assert {(64, 256), (256, 64)} <= gathered, "no layer's weights are gathered: wrong pattern?"
    assert group <= gathered <= weights | group, gathered - weights

    # Gradients (of CLS and register tokens in one), metrics, DINO's losses of the student's crops,
    # and Sinkhorn-Knopp's column sums.
    tokens, crops = {(5, 64)}, {(2 + given.crops.local_crops_number,)}
    prototypes = {(given.dino.head.n_prototypes,), (given.ibot.head.n_prototypes,)}
    reduced = {shape for kind, shape in found if kind in ("all-reduce", "reduce-scatter")}
    assert prototypes <= reduced
    allowed = weights | prototypes | tokens | crops | group | {()}
    assert reduced <= allowed, reduced - allowed
    assert {kind for kind, _ in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
