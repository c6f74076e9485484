"""What processes must have in common, and how their differences are told."""

import json
from pathlib import Path

import pytest

import dinojax
from dinojax.config import default_config, parse_config, to_dict
from dinojax.runtime import agreement
from dinojax.runtime.agreement import agree, check_shared, differences, program


def config(**overrides) -> dict:
    given = default_config()
    given.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return to_dict(parse_config(given))


@pytest.fixture
def processes(monkeypatch):
    """A function that sets what the other processes of the run hold."""

    def others(*facts):
        answers = {
            "seed": [agreement.digest(json.dumps(one, sort_keys=True)) for one in facts],
            "seed in full": [json.dumps(one) for one in facts],
        }
        monkeypatch.setattr(
            agreement, "gather", lambda name, value: [value, *answers.get(name, [""])]
        )

    return others


def test_one_process_agrees_with_itself(tmp_path):
    agree("anything", {"a": 1})
    (tmp_path / "file").touch()
    check_shared(tmp_path / "file")


def test_processes_that_agree(processes):
    processes({"b": 2, "a": 1}, {"a": 1, "b": 2})
    agree("seed", {"a": 1, "b": 2})


def test_processes_that_do_not(processes):
    processes({"a": 1, "b": 3})
    with pytest.raises(
        ValueError, match=r"disagree: b is 2 on process 0 and 3 on process 1; start"
    ):
        agree("seed", {"a": 1, "b": 2})


def test_differences_name_values_and_processes():
    facts = [{"a": 1, "b": "x"}] * 6 + [{"a": 2, "b": "x"}, {"b": "x", "c": None}]
    assert differences(facts) == (
        "a is 1 on processes 0, 1, 2, 3 and 2 more and 2 on process 6 and absent on process 7; "
        "c is absent on processes 0, 1, 2, 3 and 3 more and null on process 7"
    )
    many = [dict.fromkeys("abcdefg", process) for process in range(2)]
    assert differences(many).count(" is ") == 3 and differences(many).endswith(" and 4 more")


@pytest.mark.parametrize("stale", [False, True])
def test_storage_that_is_not_shared_is_named(tmp_path, monkeypatch, stale):
    """Also where an earlier run has left such a file."""
    monkeypatch.setattr(agreement, "VISIBLE_WITHIN_S", 0)
    monkeypatch.setattr(agreement, "gather", lambda name, own: [agreement.digest("new"), own])
    path = tmp_path / "config.json"
    if stale:
        path.write_text("old")
    with pytest.raises(ValueError, match=r"config\.json is not here as process 0 has written it"):
        check_shared(path)
    path.write_text("new")
    check_shared(path)


@pytest.mark.parametrize("key", ["train__seed", "knn__every_steps", "checkpoint__every_steps"])
def test_a_program_is_the_configuration(key):
    """Also of what may change on resume: collectives of all processes must meet."""
    assert program(config(**{key: 7})) != program(config())


def test_hosts_may_hold_their_data_elsewhere():
    own = {"data__source": "tar:/disk2/x.tar", "data__num_workers": 3, "data__prefetch_mb": 9}
    assert program(config(**own)) == program(config())


def test_a_program_is_the_code(tmp_path, monkeypatch):
    before = program(config())
    assert before["version of dinojax"] == dinojax.__version__ and "version of jax" in before
    monkeypatch.setattr(agreement.dinojax, "__file__", str(tmp_path / "__init__.py"))
    Path(tmp_path / "__init__.py").write_text("one = 1\n")
    edited = program(config())
    assert edited != before and edited == program(config())
    Path(tmp_path / "__init__.py").write_text("one = 2\n")
    assert program(config()) != edited
