"""Weights from files: under the official names of either system, strictly, and told apart."""

from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from dinojax import mesh as meshes
from dinojax.build.model import build_backbone
from dinojax.build.step import build_init
from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.config.validation import validate
from dinojax.export.buffers import official_buffers
from dinojax.export.names import to_torch
from dinojax.precision import get_precision
from dinojax.runtime.checkpoint import Checkpoints, abstract
from dinojax.runtime.earlier import find_earlier
from dinojax.ssl.state import TrainState
from dinojax.training.initial_state import make_initial_state
from dinojax.training.safety import teacher_part
from dinojax.training.starting_weights import has_heads, start_digest

DINOV2 = {"student.arch": "vits14_reg", "student.ffn_layer": "swiglu"}
for key in ("shift", "jitter", "rescale"):
    DINOV2[f"student.pos_embed_rope_{key}_coords"] = None


def config(source: Any = None, **overrides: Any) -> Config:
    given = default_config()
    arch = overrides.pop("student.arch", "vits16")
    given.student.arch = arch
    given = shrink(given)
    given.student.depth = 2
    given.init["from"] = None if source is None else str(source)
    given.update_from_flattened_dict(overrides)
    return parse_config(given)


def initial(given: Config, *mesh: int) -> TrainState:
    validate(given, batch_shards=1)
    devices = jax.devices()[: int(np.prod(mesh or (1,)))]
    mesh = meshes.make_mesh(*(mesh or (1, 1)), devices=devices)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(build_init(given))
        wanted = abstract(shapes, meshes.shardings(mesh, shapes))
        return make_initial_state(given, wanted, lambda count: iter(()))


def backbone(given: Config) -> Any:
    """Of another seed than any run here has."""
    shapes = jax.eval_shape(build_init(given)).student["backbone"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes)


def same(found: Any, expected: Any) -> bool:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray], Any]:
    """A file, its entries, and the same as our parameters."""
    params = backbone(config())
    entries = to_torch(params)
    buffers = official_buffers(build_backbone(config(), get_precision("float32")), entries)
    path = tmp_path_factory.mktemp("released") / "backbone.safetensors"
    save_file({**entries, **buffers}, path)
    return path, entries, params


@pytest.mark.slow
def test_a_released_backbone_gets_new_heads(released, caplog):
    """In student and teacher, on any mesh; and without recovery a word of warning."""
    path, _, params = released
    state, other = initial(config(path)), initial(config(path), 2, 4)
    for one in (state, other):
        assert same(one.teacher["backbone"], params) and same(one.student, one.teacher)
    fresh = initial(config())
    assert same(state.teacher["dino_head"], fresh.teacher["dino_head"])
    split = other.student["backbone"]["blocks"]["mlp"]["fc1"]["kernel"].sharding
    assert not split.is_fully_replicated
    assert "has no heads" in caplog.text and "recovery.max_steps" in caplog.text


def test_names_of_dinov2_and_half_precision(tmp_path):
    given = config(tmp_path / "v2.safetensors", **DINOV2)
    params = backbone(given)
    entries = {k: v.astype(ml_dtypes.bfloat16) for k, v in to_torch(params).items()}
    assert "blocks.0.mlp.w12.weight" in entries and "register_tokens" in entries
    save_file(entries, tmp_path / "v2.safetensors")
    rounded = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), params)
    found = initial(given).teacher["backbone"]
    assert same(found, rounded) and found["norm"]["scale"].dtype == np.float32


@pytest.mark.slow
def test_a_snapshot_has_no_heads_either(tmp_path):
    state = jax.device_get(initial(config()))
    with Checkpoints(
        tmp_path / "snapshots",
        every_steps=1,
        part=lambda state: teacher_part(state.teacher["backbone"]),
    ) as snapshots:
        snapshots.save(3, state)
    path = f"{tmp_path}/snapshots/3"
    found = initial(config(path, **{"train.seed": 1}))
    assert not has_heads(find_earlier(path, "init.from")) and same(
        found.student["backbone"], state.teacher["backbone"]
    )
    assert not same(found.student["dino_head"], state.student["dino_head"])


def changed(entries: dict[str, np.ndarray], how: str) -> dict[str, np.ndarray]:
    entries, name = dict(entries), "blocks.1.mlp.fc1.weight"
    value = entries.pop(name)
    if how == "reshaped":
        entries[name] = np.ascontiguousarray(value.T)
    elif how == "left over":
        entries |= {name: value, "odd": value}
    elif how == "quantised":
        entries[name] = value.astype(np.int8)
    return entries


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", r"no entry 'blocks\.1\.mlp\.fc1\.weight'; it has width 64 and 2 blocks"),
        ("left over", r"1 entries the model lacks: 'odd'"),
        ("reshaped", r"fc1\.weight' has shape \(64, 256\), not the model's \(256, 64\)"),
        ("quantised", r"fc1\.weight' is I8, not floating point"),
    ],
)
def test_files_are_taken_strictly(released, tmp_path, how, words):
    path = tmp_path / "changed.safetensors"
    save_file(changed(released[1], how), path)
    with pytest.raises(ValueError, match=rf"init\.from='.*' does not hold .*{words}"):
        initial(config(path))


def test_another_model_is_named(released):
    with pytest.raises(ValueError, match=r"student\.arch='vits16' and its overrides\): .*no entry"):
        initial(config(released[0], **{"student.ffn_layer": "swiglu"}))


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.safetensors"):
        initial(config(tmp_path / "none.safetensors"))
    (tmp_path / "odd.safetensors").write_bytes(b"\x80\x04pickled")
    with pytest.raises(ValueError, match=r"odd\.safetensors is damaged or no \.safetensors file"):
        initial(config(tmp_path / "odd.safetensors"))


def test_digests_are_of_one_thing(released, tmp_path):
    path = released[0]
    digest = start_digest(config(path))["init.from"]
    assert digest is not None and len(digest) == 16
    (tmp_path / "same.safetensors").write_bytes(path.read_bytes())
    assert start_digest(config(tmp_path / "same.safetensors")) == {"init.from": digest}
    (tmp_path / "same.safetensors").write_bytes(path.read_bytes()[:-1] + b"x")
    assert start_digest(config(tmp_path / "same.safetensors")) != {"init.from": digest}
    assert start_digest(config(tmp_path / "gone.safetensors")) == {"init.from": None}
    assert start_digest(config("runs/x")) == {}
