"""Every key of the configuration is read by what it configures: no dead keys."""

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from images import encode
from jax.sharding import Mesh

from dinojax import train as app
from dinojax.build.step import build_init, build_train_step
from dinojax.config import Config, default_config, parse_config
from dinojax.config.method import ScheduleConfig
from dinojax.config.shrink import shrink
from dinojax.config.validation import validate
from dinojax.mesh import make_mesh
from dinojax.runtime.earlier import Earlier
from dinojax.runtime.loop import Outcome
from dinojax.training import attempt, initial_state
from dinojax.views import render

LATER_STAGES = {
    "crops.gram_teacher_crops_size": 64,
    "crops.gram_teacher_no_distortions": True,
    "crops.teacher_to_student_resolution_scale": 2.0,
}
"""Keys of stages, and values that are refused where nobody would read them."""


def small(**overrides: Any) -> Config:
    config = shrink(default_config())
    config.train.batch_size = 16  # 8 fake devices
    config.train.draw_group_size = 1
    config.dino.koleo_group_size = 2
    config.panels.every_steps = 1
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return parse_config(config)


def sections(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted prefix, section) of every section of a configuration."""
    yield prefix, node
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from sections(value, f"{prefix}{field.name}.")


def leaves(config: Config) -> set[str]:
    return {
        f"{prefix}{field.name}"
        for prefix, node in sections(config)
        for field in dataclasses.fields(node)
        if not dataclasses.is_dataclass(getattr(node, field.name))
    }


class Reads:
    """Names of the keys read from one configuration, by its sections' identity.

    What walks over all fields (`asdict`, `replace`, generated comparisons) reads none of them.
    """

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch):
        self.names: set[str] = set()
        self._sections = {id(node): (prefix, node) for prefix, node in sections(config)}
        generic = {dataclasses.__file__, "<string>"}
        for kind in {type(node) for _, node in self._sections.values()}:
            fields = {field.name for field in dataclasses.fields(kind)}

            def get(node: Any, name: str, fields: set[str] = fields) -> Any:
                if name in fields and sys._getframe(1).f_code.co_filename not in generic:
                    prefix, known = self._sections.get(id(node), ("", None))
                    if known is node:
                        self.names.add(f"{prefix}{name}")
                return object.__getattribute__(node, name)

            monkeypatch.setattr(kind, "__getattribute__", get)


def keys_read(config: Config, workdir: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Keys that a training run reads up to and including the trace of its step.

    A check is no reader: validation and the choice of the mesh are left out. So are compilation and
    the loop itself.
    """

    def read_mesh(config: Config) -> Mesh:
        return make_mesh(config.mesh.data, config.mesh.fsdp or 1, config.mesh.tensor or 1)

    def run(state, *, train_step_at, **_: Any) -> Outcome:
        canvas = jnp.zeros((config.train.batch_size, 64, 64, 3), jnp.uint8)
        batch = {"canvas": canvas, "size": jnp.full((config.train.batch_size, 2), 64)}
        jax.eval_shape(train_step_at(0), state, batch)
        return Outcome(state, 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(attempt, "run", run)
        patch.setattr(attempt, "compile_step", lambda config, mesh, state: build_train_step(config))
        patch.setattr(app, "run_mesh", read_mesh)
        patch.setattr(render, "validate", lambda *_: None)
        patch.setattr(app, "write_summary", lambda *_: {})
        reads = Reads(config, patch)
        app.train(config, workdir)
    return reads.names


class Zeros(Earlier):
    """A checkpoint that holds whatever is wanted."""

    def read(self, wanted: Any) -> Any:
        return zeros(wanted)


def zeros(like: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)


def test_every_key_has_a_reader(tmp_path, monkeypatch):
    """On `scenes` with the families of the defaults, on a folder with the others, and a run of each
    later stage."""
    config = small()
    read = keys_read(config, str(tmp_path / "scenes"), monkeypatch)

    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i}.jpg").write_bytes(encode(np.full((8, 8, 3), i, np.uint8)))
    families = {"dinov2": "dinov3", "dinov3": "dinov2"}
    swapped = {
        f"{prefix}family": families[node.family]
        for prefix, node in sections(config)
        if isinstance(node, ScheduleConfig)
    }
    # An image without a class: the source has no labels, and the monitor does without.
    other = small(**swapped, data__source=str(folder))
    read |= keys_read(other, str(tmp_path / "folder"), monkeypatch)

    # A stage of each kind: anchored and continued, and distilled.
    checkpoint = str(tmp_path / "scenes" / "checkpoints" / "0")
    gram = small(
        gram__use_loss=True,
        gram__teacher=checkpoint,
        gram__update_every_steps=2,
        crops__gram_teacher_crops_size=64,
        crops__gram_teacher_no_distortions=True,
        init__from=checkpoint,
        init__resume=True,
    )
    with monkeypatch.context() as patch:
        earlier = lambda given, key: Zeros(checkpoint, None)  # noqa: E731
        patch.setattr(initial_state, "find_earlier", earlier)
        read |= keys_read(gram, str(tmp_path / "gram"), monkeypatch)
        recovered = small(
            init__from=checkpoint,
            recovery__max_steps=1,
            recovery__seed_batches=0,
            recovery__warmup_steps=1,
        )
        read |= keys_read(recovered, str(tmp_path / "recovered"), monkeypatch)
    heads = {
        f"distillation__{name}_head__{key}": value
        for name in ("dino", "ibot")
        for key, value in (("n_prototypes", 64), ("hidden_dim", 64), ("bottleneck_dim", 16))
    }
    sizes = (("embed_dim", 64), ("depth", 1), ("num_heads", 2))
    backbone = {f"distillation__backbone__{key}": value for key, value in sizes}
    distilled = small(distillation__teacher="random", **backbone, **heads)
    read |= keys_read(distilled, str(tmp_path / "distilled"), monkeypatch)
    features = {"distillation__objective": "features", "crops__local_crops_number": 0}
    matched = small(distillation__teacher="random", **backbone, **features)
    read |= keys_read(matched, str(tmp_path / "matched"), monkeypatch)

    dead = leaves(config) - read
    assert not dead, f"nobody reads {sorted(dead)}: wire or delete them"


def test_the_recorder_sees_dead_keys(monkeypatch):
    config = small()
    with monkeypatch.context() as patch:
        reads = Reads(config, patch)
        jax.eval_shape(build_init(config))
        dataclasses.asdict(config)
        dataclasses.replace(config.optim.lr, peak=2.0)
        assert small().optim.lr.peak  # another configuration
    assert "student.embed_dim" in reads.names and "ibot.head.nlayers" in reads.names
    assert "student.drop_path_rate" not in reads.names
    assert not [name for name in reads.names if name.startswith("optim.lr.")]


@pytest.mark.parametrize("key", LATER_STAGES)
def test_keys_of_later_stages_are_refused(key):
    with pytest.raises(ValueError, match=rf"{key}={LATER_STAGES[key]} .*set it to "):
        validate(small(**{key.replace(".", "__"): LATER_STAGES[key]}), batch_shards=8)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"optim__lr__trunc_extra": 0.25, "optim__lr__family": "dinov3"},
            r"optim\.lr\.trunc_extra=0\.25 .*dinov2",
        ),
        ({"optim__weight_decay__cosine_steps": 2}, r"optim\.weight_decay\.cosine_steps=2 .*dinov3"),
        ({"dino__local_loss_weight__trunc_extra": 0.5}, r"dino\.local_loss_weight\.trunc_extra"),
    ],
)
def test_keys_of_the_other_schedule_family_are_refused(overrides, words):
    with pytest.raises(ValueError, match=words):
        validate(small(**overrides), batch_shards=8)
