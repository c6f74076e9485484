"""gram.teacher="auto": which snapshot it becomes, and that it stays that one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from dinojax import train as app
from dinojax.config import Config, default_config, parse_config, to_dict
from dinojax.config.shrink import shrink
from dinojax.config.validation import validate
from dinojax.evaluation.snapshot_scores import Snapshot, Table, write_table
from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.contract import write_or_check
from dinojax.runtime.stored_state import fingerprint
from dinojax.training.gram_choice import choose_gram_teacher

MIOU = {10: 0.3, 20: 0.5, 30: 0.4}


def stage(earlier: Any, **overrides: Any) -> Config:
    given = shrink(default_config())
    given.gram.use_loss, given.gram.teacher = True, "auto"
    given.init["from"] = None if earlier is None else str(earlier)
    given.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return parse_config(given)


def rate(workdir: Path, miou: dict[int, float]) -> None:
    found = [
        Snapshot(step, fingerprint(workdir / "snapshots" / str(step)), {"miou": value})
        for step, value in miou.items()
    ]
    write_table(workdir, Table({}, tuple(found)))


@pytest.fixture
def earlier(tmp_path) -> Path:
    workdir = tmp_path / "earlier"
    with Checkpoints(workdir / "snapshots", every_steps=1) as snapshots:
        for step in MIOU:
            snapshots.save(step, {"w": jnp.full(2, step)})
    rate(workdir, MIOU)
    return workdir


def chosen(config: Config, workdir: Any) -> str | None:
    """The Gram teacher that it gets, which is all that changes."""
    found = choose_gram_teacher(config, str(workdir))
    gram = dataclasses.replace(config.gram, teacher=found.gram.teacher)
    assert found == dataclasses.replace(config, gram=gram)
    return found.gram.teacher


def test_the_best_of_the_run_before(earlier, tmp_path):
    assert chosen(stage(earlier), tmp_path / "new") == f"{earlier}/snapshots/20"


def test_a_checkpoint_has_no_later_snapshots(earlier, tmp_path):
    """init.from at step 15: what came after that is not the past of this run."""
    given = stage(earlier / "checkpoints" / "15")
    assert chosen(given, tmp_path / "new") == f"{earlier}/snapshots/10"
    with pytest.raises(FileNotFoundError, match=r"no snapshot up to step 5, which init\.from"):
        choose_gram_teacher(stage(earlier / "checkpoints" / "5"), str(tmp_path / "new"))


def test_others_are_left_alone(tmp_path):
    for keys in ({"gram__teacher": "runs/x"}, {"gram__use_loss": False}):
        given = stage(tmp_path, **keys)
        assert choose_gram_teacher(given, str(tmp_path)) == given


def test_later_starts_take_what_the_first_one_took(earlier, tmp_path):
    """Though the scores have changed since then; the file that they lie in may be gone."""
    first = choose_gram_teacher(stage(earlier), str(tmp_path / "new"))
    found = {"records": "0", "images": {}}
    write_or_check(tmp_path / "new", to_dict(first), found)
    rate(earlier, {10: 0.9, 20: 0.1, 30: 0.1})
    assert chosen(stage(earlier), tmp_path / "new") == f"{earlier}/snapshots/20"
    assert chosen(stage(earlier), tmp_path / "another") == f"{earlier}/snapshots/10"
    (earlier / "snapshots.json").unlink()
    again = choose_gram_teacher(stage(earlier), str(tmp_path / "new"))
    write_or_check(tmp_path / "new", to_dict(again), found)  # is the same run


def test_another_teacher_before_is_another_run(earlier, tmp_path):
    """Somebody's own choice is not mistaken for an earlier "auto"."""
    found = {"records": "0", "images": {}}
    own = stage(earlier, gram__teacher="runs/x")
    write_or_check(tmp_path / "new", to_dict(own), found)
    given = choose_gram_teacher(stage(earlier), str(tmp_path / "new"))
    with pytest.raises(ValueError, match=r"gram\.teacher"):
        write_or_check(tmp_path / "new", to_dict(given), found)


@pytest.mark.parametrize("lost", ["file", "entry", "weights"])
def test_snapshots_without_scores(earlier, tmp_path, lost):
    if lost == "file":
        (earlier / "snapshots.json").unlink()
    elif lost == "entry":
        rate(earlier, {10: 0.3, 20: 0.5})
    else:
        content = json.loads((earlier / "snapshots.json").read_text())
        content["snapshots"][2]["fingerprint"] = "0" * 16
        (earlier / "snapshots.json").write_text(json.dumps(content))
    count, step = (3, 10) if lost == "file" else (1, 30)
    with pytest.raises(ValueError) as caught:
        choose_gram_teacher(stage(earlier), str(tmp_path / "new"))
    text = str(caught.value)
    assert f"and {count} of 3 have none, as that of step {step}; run this first" in text
    assert text.endswith(f"python -m dinojax.show snapshots --workdir={earlier}")


def test_nothing_to_choose_from(tmp_path):
    with pytest.raises(ValueError, match=r"init\.from=None; set init\.from to its workdir"):
        validate(stage(None), batch_shards=1)
    with pytest.raises(ValueError, match=r"init\.from=None; set init\.from to its workdir"):
        choose_gram_teacher(stage(None), str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"'auto' has nothing to choose: .* no snapshots"):
        choose_gram_teacher(stage(tmp_path), str(tmp_path / "new"))


def test_training_belongs_to_the_chosen_one(earlier, tmp_path, monkeypatch):
    """The app resolves it before anything is agreed on or written."""

    class EnoughError(Exception):
        pass

    def stop(name, facts):
        assert facts["gram.teacher"] == f"{earlier}/snapshots/20"
        raise EnoughError

    monkeypatch.setattr(app, "agree", stop)
    with pytest.raises(EnoughError):
        app.train(stage(earlier), str(tmp_path / "new"))
