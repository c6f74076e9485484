"""The communication contract: kinds, number and place of what a compiled step moves.

On eight CPU devices; XLA's CPU backend makes float32 of bf16 collectives, so `test_tpu_contract`
looks at widths. When the budget changes on purpose: ``python tests/planning/test_contract.py``.
"""

import json
from pathlib import Path

import jax
import pytest

from dinojax import mesh as meshes
from dinojax.build import step as build
from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.kernels import linear
from dinojax.planning import hlo
from dinojax.training.compiled_step import compile_step

pytestmark = pytest.mark.slow  # by default `tests/ssl/test_invariance.py` looks at what travels
BUDGET = Path(__file__).with_name("communication_budget.json")
LAYERS = 2
WEIGHTS = 4
"""Of a layer: qkv, proj, fc1, fc2."""
MESH = (2, 2, 2)


def config() -> Config:
    """Two layers, weights large enough to be split, both crop sizes, every loss."""
    config = shrink(default_config())
    config.student.depth = LAYERS
    config.student.drop_path_rate = 0.25
    config.student.remat = "full"
    config.dino.head.n_prototypes, config.ibot.head.n_prototypes = 512, 768
    config.train.batch_size, config.train.draw_group_size = 16, 4
    config.train.precision = "bfloat16"
    return parse_config(config)


def moved() -> list[hlo.Collective]:
    """By the step of `config`, compiled as `train` compiles it."""
    given, mesh = config(), meshes.make_mesh(*MESH)
    state = jax.eval_shape(build.build_init(given))
    state = jax.tree.map(
        lambda leaf, layout: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout),
        state,
        meshes.shardings(mesh, state),
    )
    with jax.set_mesh(mesh):
        return hlo.collectives(compile_step(given, mesh, state).as_text())


def budget(found: list[hlo.Collective]) -> dict[str, int]:
    """Arrays per step by kind and place."""
    counts: dict[str, int] = {}
    for one in found:
        key = f"{one.kind} {'inside' if one.in_layers else 'outside'} the layer loop"
        counts[key] = counts.get(key, 0) + one.times
    return counts


@pytest.fixture(scope="module")
def found() -> list[hlo.Collective]:
    return moved()


def test_stored_budget(found):
    assert budget(found) == json.loads(BUDGET.read_text())


def test_weights_are_gathered_once_per_layer_and_pass(found):
    """By the teacher, the student and its backward pass; fsdp's part only, not tensor's."""
    gathers = [one for one in found if one.kind == "all-gather" and one.in_layers]
    assert sum(one.times for one in gathers) == 3 * LAYERS * WEIGHTS
    width, hidden = config().student.embed_dim, 4 * (config().student.embed_dim or 0)
    half = {(width, 3, 1, 32), (width // 2, width), (width, hidden // 2), (hidden // 2, width)}
    merged = {tuple(n for n in shape if n != 1) for shape in half}
    assert {one.shape for one in gathers} == merged


def test_logits_prototypes_and_activations_stay(found):
    """Outside the layers, too, only weights are gathered: prototypes by fsdp, not by tensor."""
    given = config()
    columns = {given.dino.head.n_prototypes, given.ibot.head.n_prototypes}
    gathers = [one for one in found if one.kind == "all-gather" and not one.in_layers]
    bottleneck = given.dino.head.bottleneck_dim
    halves = {size // 2 for size in columns}
    wide = {one.shape for one in gathers if (columns | halves) & set(one.shape)}
    assert wide == {(bottleneck, size) for size in halves}
    # Of six gradients the split changes its axis: parts of weights, sent once.
    sent = {one.source for one in found if one.kind == "collective-permute"}
    assert all(source.endswith("/dot_general") and "transpose(" in source for source in sent)
    assert "all-to-all" not in {one.kind for one in found}


def without(name: str, monkeypatch) -> list[hlo.Collective]:
    """The step when one constraint of `dinojax.mesh` does nothing."""
    monkeypatch.setattr(linear, name, lambda weight, *options, **more: weight)
    return moved()


@pytest.mark.slow
def test_a_gather_that_is_not_asked_for_turns_it_red(monkeypatch, found):
    broken = without("gather", monkeypatch)
    assert budget(broken) != budget(found)


if __name__ == "__main__":
    BUDGET.write_text(json.dumps(budget(moved()), indent=1, sort_keys=True) + "\n")
