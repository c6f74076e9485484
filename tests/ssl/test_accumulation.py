"""Gradients in micro-batches, with chunked cross-entropies, against those of the whole batch."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import collectives
from jax.sharding import PartitionSpec

from dinojax import mesh as meshes
from dinojax import trees
from dinojax.build import inputs as build_inputs
from dinojax.build import step as build
from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.micro_batch import WHOLE_BATCH, MicroBatch
from dinojax.ssl.state import Centers, TrainState

BATCH, GROUP, KOLEO_GROUP = 32, 2, 4
SPLITS = [pytest.param(*one, marks=pytest.mark.slow) for one in ((4, 9), (2, None), (1, 7))]
"""(micro-batches, prototype chunk): both, and each alone."""


def config(
    micro_batches: int = 1,
    chunk: int | None = None,
    centering: str = "sinkhorn_knopp",
    precision: str = "float64",
    gram: str = "",
) -> Config:
    """Every regulariser on; the smallest micro-batch is one KoLeo group of two draw groups.

    `gram`: anchored to "ema", or to a "copy" that sees larger crops.
    """
    given = shrink(default_config())
    given.student.num_heads = 8
    given.student.layerscale = 1.0
    given.student.drop_path_rate = 0.25
    given.student.pos_embed_rope_rescale_coords = 2.0
    given.crops.global_crops_size, given.crops.local_crops_size = 48, 32
    given.optim.lr.warmup_steps = given.optim.freeze_last_layer_steps = 0
    given.optim.momentum.peak = 0.5
    given.train.batch_size, given.train.draw_group_size = BATCH, GROUP
    given.dino.koleo_group_size = KOLEO_GROUP
    given.train.precision, given.train.centering = precision, centering
    given.train.micro_batches, given.train.prototype_chunk = micro_batches, chunk
    if gram:
        given.gram.use_loss = given.gram.compute_stats = True
        given.gram.tokens_used = "unmasked"
        given.gram.loss_weight.start = given.gram.loss_weight.peak = 2.0
        given.gram.loss_weight.end = 2.0
    if gram == "ema":
        given.gram.teacher = gram
    elif gram:
        given.gram.load_ema_step, given.crops.gram_teacher_crops_size = 0, 64
    return parse_config(given)


def canvases(given: Config) -> dict[str, np.ndarray]:
    side = given.data.canvas_px
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), np.uint8)
    return {"canvas": pixels, "size": np.full((BATCH, 2), side, np.int32)}


@functools.cache
def whole_inputs(precision: str, gram: str = "") -> StepInputs:
    """Of the first step, on the host."""
    given = config(precision=precision, gram=gram)
    with jax.enable_x64(precision == "float64"):
        inputs = jax.jit(build_inputs.build_inputs(given), static_argnums=1)(canvases(given), 0)
        return jax.device_get(inputs)


def part_of(inputs: StepInputs, part: MicroBatch) -> StepInputs:
    """What `make_step_views` should make of a part: entries of images and groups, in order."""

    def second_axis(x: Any) -> Any:
        return jnp.swapaxes(part.of(jnp.swapaxes(x, 0, 1)), 0, 1)

    inputs = jax.tree.map(jnp.asarray, inputs)
    return StepInputs(
        global_crops=second_axis(inputs.global_crops),
        local_crops=second_axis(inputs.local_crops),
        masks=part.of(inputs.masks),
        mask_indices=part.of(inputs.mask_indices),
        mask_weights=part.of(inputs.mask_weights),
        draws=jax.tree.map(second_axis, inputs.draws),
        gram_crops=jax.tree.map(second_axis, inputs.gram_crops),
    )


@pytest.mark.slow
def test_inputs_of_a_part_are_those_of_the_whole():
    """Crops to the last bits of a compiler that rounds by shape; what is drawn, exactly."""
    given = config(precision="float32")
    whole = whole_inputs("float32")
    make_inputs = build_inputs.build_inputs(given)
    part = jax.jit(lambda batch, index: make_inputs(batch, 0, MicroBatch(index, 4)))
    for index in (0, 3):
        found = part(canvases(given), index)
        expected = jax.tree.map(np.asarray, part_of(whole, MicroBatch(index, 4)))
        assert found.global_crops.shape[1] == BATCH // 4
        for name, value in trees.flatten(expected).items():
            check = np.testing.assert_array_equal
            if name.endswith("crops"):
                check = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-4)
            check(trees.flatten(found)[name], value, err_msg=name)


def step_on_inputs(given: Config):
    """The train step, with the inputs of the whole batch in place of canvases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            build,
            "build_inputs",
            lambda _: lambda inputs, step, part=WHOLE_BATCH: part_of(inputs, part),
        )
        return build.build_train_step(given)


def initial_state(given: Config) -> TrainState:
    """With a teacher apart from the student and centres that are not zero, as after some steps."""
    state = jax.jit(build.build_init(given))()
    state = state._replace(
        teacher=jax.tree.map(lambda x: 1.1 * x, state.teacher),
        gram_teacher=jax.tree.map(lambda x: 0.9 * x + 0.01, state.gram_teacher),
    )
    if state.centers is None:
        return state
    centers = [jnp.linspace(-0.1, 0.1, len(center), dtype=center.dtype) for center in state.centers]
    return state._replace(centers=Centers(*centers))


def input_layout(mesh: jax.sharding.Mesh, inputs: StepInputs) -> StepInputs:
    """Shardings: images and groups over data and fsdp."""
    first = meshes.batch_sharding(mesh)
    second = jax.NamedSharding(mesh, PartitionSpec(None, meshes.BATCH_AXES))
    layout = jax.tree.map(lambda _: second, inputs)
    return layout._replace(masks=first, mask_indices=first, mask_weights=first)


@functools.cache
def run(*options: Any) -> tuple[TrainState, dict[str, Any]]:
    """State and metrics after one step of the configuration with these options."""
    given = config(*options)
    with jax.enable_x64(given.train.precision == "float64"):
        step = jax.jit(step_on_inputs(given))
        inputs = whole_inputs(given.train.precision, *options[4:])
        return jax.device_get(step(initial_state(given), inputs))


def deviations(found: Any, expected: Any) -> dict[str, float]:
    """Of each tensor, relative to its largest element."""
    found = trees.flatten(found)
    return {
        name: float(np.abs(np.subtract(found[name], x, dtype=float)).max() / scale)
        for name, x in trees.flatten(expected).items()
        for scale in [max(np.abs(x).max(), 1e-300)]
    }


def check(found: Any, expected: Any, limit: float) -> None:
    over = {name: x for name, x in deviations(found, expected).items() if not x <= limit}
    assert not over, f"over {limit}: {over}"


@pytest.mark.parametrize(("micro_batches", "chunk"), SPLITS)
def test_the_update_is_that_of_the_whole_batch(micro_batches, chunk):
    """Losses, gradient norms, moments (gradients), student and teacher."""
    check(run(micro_batches, chunk), run(), 1e-10)


@pytest.mark.parametrize(
    ("micro_batches", "chunk"),
    [pytest.param(*one, marks=pytest.mark.slow) for one in ((4, None), (2, 9))],
)
def test_moving_centers(micro_batches, chunk):
    found, expected = run(micro_batches, chunk, "softmax"), run(1, None, "softmax")
    assert found[0].centers is not None and expected[0].centers is not None
    check(found, expected, 1e-10)


@pytest.mark.parametrize(
    ("micro_batches", "chunk", "gram"),
    [pytest.param(*one, marks=pytest.mark.slow) for one in ((2, None, "copy"), (4, 9, "ema"))],
)
def test_gram_anchoring(micro_batches, chunk, gram):
    """Its teacher sees a part when the student does; the EMA teacher's patches are kept."""
    found = run(micro_batches, chunk, "sinkhorn_knopp", "float64", gram)
    expected = run(1, None, "sinkhorn_knopp", "float64", gram)
    assert expected[1]["gram_loss"] > 0 and expected[1]["stats_only/masked_gram_loss"] > 0
    check(found, expected, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 2, 1), (2, 2, 2), (1, 1, 8)])
def test_on_devices_nothing_moves_but_weights(sizes):
    """Two micro-batches in chunks: the same update, and no activation or logits travel.

    Weights and prototypes that lie over tensor stay there: none is gathered along that axis.
    """
    mesh = meshes.make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
    given = config(2, 7)
    with jax.enable_x64(True), jax.set_mesh(mesh):
        state = jax.device_get(initial_state(given))
        layout = meshes.shardings(mesh, state)
        inputs = whole_inputs("float64")
        split = input_layout(mesh, inputs)
        step = jax.jit(
            step_on_inputs(given),
            in_shardings=(layout, split),
            out_shardings=(layout, meshes.replicated(mesh)),
        ).lower(state, inputs)
        program = step.compile()
        found = jax.device_get(
            program(jax.device_put(state, layout), jax.device_put(inputs, split))
        )
    check(found, run(), 1e-10)

    moved = collectives(program.as_text())
    sums = {"all-reduce", "reduce-scatter"}
    assert {kind for kind, _ in moved} <= {"all-gather", "collective-permute", *sums}
    weights = set()
    for path, leaf in trees.flatten(state.student).items():
        split = mesh.shape["tensor"] if meshes.tensor_axis(path) is not None else 1
        layers = given.student.depth if meshes.STACKED.search(path) else 1
        weights |= {leaf.size // split, leaf.size // split // layers}
    gathered = {math.prod(shape) for kind, shape in moved if kind == "all-gather"}
    assert bool(gathered) == (mesh.shape["fsdp"] > 1)
    assert gathered <= weights, gathered - weights
    # Of some gradients the split changes its axis.
    sent = {math.prod(shape) for kind, shape in moved if kind == "collective-permute"}
    assert sent <= {size // mesh.shape["fsdp"] for size in weights}, sent
