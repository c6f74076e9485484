"""A workdir belongs to one configuration and one dataset."""

import json

import pytest
from absl import logging

from dinojax.config import Config, to_dict
from dinojax.runtime import contract
from dinojax.runtime.contract import config_hash, write_or_check

DATA = {"records": "f00d", "images": {"a.jpg": "01", "b.jpg": "02"}}


def config(**changes):
    """The default configuration with values changed by dotted key (``__`` for the dot)."""
    tree = to_dict(Config())
    for key, value in changes.items():
        *sections, name = key.split("__")
        node = tree
        for section in sections:
            node = node[section]
        assert name in node
        node[name] = value
    return tree


def stored(workdir):
    return json.loads((workdir / "config.json").read_text())


def test_first_start_writes_everything(tmp_path):
    workdir = tmp_path / "new" / "run"
    write_or_check(workdir, config(), DATA)
    found = stored(workdir)
    assert found["config"]["crops"]["rgb_mean"] == [0.485, 0.456, 0.406]
    assert found["data_fingerprint"] == DATA
    assert found["config_hash"] == config_hash(config())
    assert set(found["versions"]) == {
        *("dinojax", "jax", "flax", "optax", "orbax-checkpoint"),
        *("grain", "simplejpeg", "opencv-python-headless", "pillow"),
    }
    assert [p.name for p in workdir.iterdir()] == ["config.json"]


def test_same_run_may_start_again(tmp_path):
    write_or_check(tmp_path, config(), DATA)
    before = (tmp_path / "config.json").read_bytes()
    write_or_check(tmp_path, config(), DATA)
    assert (tmp_path / "config.json").read_bytes() == before


FREE = {
    "checkpoint__every_steps": 7,
    "checkpoint__keep_last": 9,
    "data__bad_budget": 0.5,
    "data__homogeneous_source": "/elsewhere",
    "data__ids": "/elsewhere.txt",
    "data__mixture": [["/elsewhere", 1.0]],
    "data__num_workers": 3,
    "data__prefetch_mb": 1,
    "data__read_timeout_s": 9.0,
    "data__source": "/elsewhere",
    "data__verify_images": 0,
    "distillation__backbone__attention_backend": "reference",
    "distillation__backbone__scan_unroll": 2,
    "knn__every_steps": 11,
    "knn__k": 5,
    "mesh__fsdp": 8,
    "student__remat": "full",
    "student__attention_backend": "reference",
    "student__scan_unroll": 2,
    "train__hang_timeout_s": 1.0,
    "train__log_every_steps": 1,
    "train__micro_batches": 2,
    "train__prototype_chunk": 512,
    "train__rollback_after": 3,
}
"""`tests/build/test_step.py` shows that those which reach the step do not change it."""


@pytest.mark.parametrize("key", FREE)
def test_a_free_key_may_change_and_is_rewritten(tmp_path, key):
    write_or_check(tmp_path, config(), DATA)
    other = config(**{key: FREE[key]})
    write_or_check(tmp_path, other, DATA)
    assert contract.flatten(stored(tmp_path)["config"])[key.replace("__", ".")] == FREE[key]
    assert config_hash(other) == config_hash(config())


def test_all_other_keys_are_bound(tmp_path):
    """Anything new is bound until somebody argues otherwise in `FREE_KEYS`."""
    free = {key.replace("__", ".") for key in FREE}
    for key, value in contract.flatten(config()).items():
        changed = config(**{key.replace(".", "__"): "another"})
        assert value != "another"
        is_free = key in free or key.startswith(
            ("checkpoint.", "knn.", "panels.", "guardian.", "mesh.")
        )
        assert (config_hash(changed) == config_hash(config())) == is_free, key


def test_a_key_is_free_by_its_whole_name():
    """``data.source`` does not free a ``data.source_weights``."""
    bound = {"data": {"source": "a", "source_weights": 1}}
    other = {"data": {"source": "b", "source_weights": 2}}
    assert config_hash(bound) != config_hash(other)
    other["data"]["source_weights"] = 1
    assert config_hash(bound) == config_hash(other)


def test_other_values_are_named_and_nothing_is_written(tmp_path):
    write_or_check(tmp_path, config(), DATA)
    before = (tmp_path / "config.json").read_bytes()
    other = config(train__seed=1, optim__lr__peak=0.002, mesh__fsdp=8)
    with pytest.raises(ValueError) as error:
        write_or_check(tmp_path, other, DATA)
    assert str(error.value) == (
        f"workdir {tmp_path} belongs to another run: optim.lr.peak was 0.001 and is 0.002; "
        f"train.seed was 0 and is 1; use another workdir, restore the value or "
        f"allow the exact key with --allow_change=KEY"
    )
    assert (tmp_path / "config.json").read_bytes() == before
    assert config_hash(other) != config_hash(config())


def test_only_the_first_few_differences_are_named(tmp_path):
    write_or_check(tmp_path, {f"k{i}": i for i in range(9)}, DATA)
    with pytest.raises(ValueError, match=r"k0 was 0 and is 1; k1 .*; k2 .* and 6 more; use"):
        write_or_check(tmp_path, {f"k{i}": i + 1 for i in range(9)}, DATA)


def test_keys_that_come_or_go_are_differences(tmp_path):
    write_or_check(tmp_path, {"a": 1, "gone": None}, DATA)
    with pytest.raises(ValueError, match="gone was null and is absent; new was absent and is 2"):
        write_or_check(tmp_path, {"a": 1, "new": 2}, DATA)


def test_types_count(tmp_path):
    write_or_check(tmp_path, {"a": 1}, DATA)
    with pytest.raises(ValueError, match="a was 1 and is true"):
        write_or_check(tmp_path, {"a": True}, DATA)


def test_other_data_is_refused(tmp_path):
    write_or_check(tmp_path, config(), DATA)
    other = {"records": "beef", "images": {"c.jpg": "03"}}
    with pytest.raises(ValueError, match=r'run: data fingerprint was "f00d" and is "beef"; use'):
        write_or_check(tmp_path, config(), other)


def test_a_changed_image_is_named(tmp_path):
    write_or_check(tmp_path, config(), DATA)
    other = {**DATA, "images": {"a.jpg": "01", "b.jpg": "03"}}
    with pytest.raises(
        ValueError, match=r"run: digest of record 'b.jpg' was \"02\" and is \"03\";"
    ):
        write_or_check(tmp_path, config(), other)


def test_another_teacher_is_refused_by_its_key(tmp_path):
    """Under the same configuration: it is what a path holds that has changed."""
    key = "distillation.teacher"
    given = config(distillation__teacher="runs/x")
    write_or_check(tmp_path, given, DATA, weights={key: "01"})
    write_or_check(tmp_path, given, DATA, weights={key: "01"})
    with pytest.raises(ValueError, match=f"run: the weights that {key} names were 01 and are 02;"):
        write_or_check(tmp_path, given, DATA, weights={key: "02"})
    write_or_check(tmp_path, given, DATA, [key], weights={key: "02"})
    write_or_check(tmp_path, given, DATA, weights={key: "02"})
    (change,) = stored(tmp_path)["history"][0]["changes"]
    assert change.endswith("were 01 and are 02")


def test_other_versions_only_warn(tmp_path, monkeypatch):
    write_or_check(tmp_path, config(), DATA)
    old = stored(tmp_path)
    old["versions"]["jax"] = "0.0.1"
    (tmp_path / "config.json").write_text(json.dumps(old))
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))
    write_or_check(tmp_path, config(), DATA)
    assert len(said) == 1 and 'jax was "0.0.1" and is' in said[0]
    assert stored(tmp_path)["versions"]["jax"] != "0.0.1"
    write_or_check(tmp_path, config(), DATA)
    assert len(said) == 1


@pytest.mark.parametrize("text", ["", '{"config": {', "[]", "{}", '{"config": 3}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json is damaged \(.*use another workdir"):
        write_or_check(tmp_path, config(), DATA)
    assert (tmp_path / "config.json").read_text() == text


def test_only_the_first_process_writes_but_all_check(tmp_path, monkeypatch):
    monkeypatch.setattr(contract.jax, "process_index", lambda: 1)
    write_or_check(tmp_path, config(), DATA)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    write_or_check(tmp_path, config(), DATA)
    monkeypatch.setattr(contract.jax, "process_index", lambda: 1)
    with pytest.raises(ValueError, match="another run"):
        write_or_check(tmp_path, config(train__seed=1), DATA)


def test_an_allowed_key_may_change_and_is_recorded(tmp_path):
    write_or_check(tmp_path, config(), DATA)
    (tmp_path / "metrics.jsonl").write_text('{"step": 40}\n')
    other = config(optim__lr__peak=0.002, train__seed=1)
    with pytest.raises(ValueError, match=r"another run: train\.seed was 0 and is 1; use"):
        write_or_check(tmp_path, other, DATA, ["optim.lr.peak"])
    assert stored(tmp_path)["history"] == []
    write_or_check(tmp_path, other, DATA, ["optim.lr.peak", "train.seed"])
    first = ["optim.lr.peak was 0.001 and is 0.002", "train.seed was 0 and is 1"]
    assert stored(tmp_path)["history"] == [{"steps_logged": 40, "changes": first}]
    # It belongs to the new values now: the same command resumes, without the flag too.
    for allow in (["optim.lr.peak"], []):
        write_or_check(tmp_path, other, DATA, allow)
    data = {"records": "beef", "images": DATA["images"]}
    write_or_check(tmp_path, other, data, ["data_fingerprint"])
    second = ['data fingerprint was "f00d" and is "beef"']
    assert [entry["changes"] for entry in stored(tmp_path)["history"]] == [first, second]
    with pytest.raises(ValueError, match="optim"):
        write_or_check(tmp_path, config(), data)


@pytest.mark.parametrize(
    ("key", "near"), [("optim.lr", "optim.lr."), ("optim", "."), ("optim.lr.peek", "optim.lr.peak")]
)
def test_only_whole_keys_are_allowed(tmp_path, key, near):
    write_or_check(tmp_path, config(), DATA)
    with pytest.raises(ValueError, match=rf"--allow_change={key} is no key; use .*{near}"):
        write_or_check(tmp_path, config(optim__lr__peak=0.002), DATA, [key])


def test_other_weights_to_start_from_are_refused(tmp_path):
    """Unless they are gone, which a run that has begun does not mind, or the key is allowed."""
    write_or_check(tmp_path, config(), DATA, weights={"init.from": "aa"})
    write_or_check(tmp_path, config(), DATA, weights={"init.from": None})
    assert stored(tmp_path)["weights"] == {"init.from": "aa"}
    given = {"weights": {"init.from": "bb"}}
    with pytest.raises(ValueError, match=r"weights that init\.from names were aa and are bb"):
        write_or_check(tmp_path, config(), DATA, **given)
    write_or_check(tmp_path, config(), DATA, ["init.from"], **given)
    assert stored(tmp_path)["weights"] == {"init.from": "bb"}
    (entry,) = stored(tmp_path)["history"]
    assert entry["changes"] == ["the weights that init.from names were aa and are bb"]
