"""What `python -m dinojax.show` prints, draws and refuses."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image

from dinojax import recorder, show
from dinojax import train as app
from dinojax.config import default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.runs import open_run
from dinojax.runtime.loop import Outcome
from dinojax.show import show_batch, show_where
from dinojax.training import attempt, compiled_step

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A run of two logged steps, none of which was computed."""
    path = tmp_path_factory.mktemp("show") / "run"

    def loop(state, *, writer, batches, **_):
        for step in (1, 2):
            next(batches)
            writer.write(step, {"total_loss": 1.0})
        return Outcome(state, 1.0)

    config = shrink(default_config())
    config.mesh.fsdp = 2
    config.train.batch_size, config.train.draw_group_size = 16, 1
    config.dino.koleo_group_size = 2
    config.knn.every_steps = 0
    config.data.scenes.num_images = 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            compiled_step, "build_train_step", lambda given: lambda state, batch: (state, {})
        )
        patch.setattr(attempt, "run", loop)
        app.train(parse_config(config), str(path))
    return path


def test_batch_as_a_table(workdir, capsys):
    show_batch(str(workdir), 1, images=2, out=None, as_json=False)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "step 1, images 1 to 2 of 16" and not said.err
    assert [line.split()[1] for line in lines if line.startswith("slot")] == ["0", "1"]
    assert "64 x 64 px on the canvas" in lines[1] and "scenes/train/0000" in lines[1]
    views = [line.split()[:2] for line in lines if line.startswith(("  global", "  local"))]
    assert views == [["global", "1"], ["global", "2"], ["local", "1"], ["local", "2"]] * 2
    assert lines[-1] == str(workdir / "batch_1.png")
    with Image.open(workdir / "batch_1.png") as image:
        assert image.format == "PNG" and min(image.size) > 400


def test_batch_as_json(workdir, tmp_path, capsys):
    show_batch(str(workdir), 2, images=2, out=str(tmp_path / "new" / "a.png"), as_json=True)
    entries = json.loads(capsys.readouterr().out)
    assert (tmp_path / "new" / "a.png").stat().st_size > 5000
    seen = recorder.rebuild(open_run(workdir), 2, 2)
    assert [entry["id"] for entry in entries] == seen.ids
    assert [entry["position"] for entry in entries] == [32, 33]
    for slot, entry in enumerate(entries):
        for i, view in enumerate(entry["views"][:2]):
            assert view["box"] == seen.params.global_geometry.box[slot, i].tolist()
            assert view["masked_patches"] == np.flatnonzero(seen.masks[i, slot]).tolist()
        assert "in_place_of" not in entry and "masked_patches" not in entry["views"][2]


def test_a_step_that_comes_later_says_so(workdir, tmp_path, capsys):
    show_batch(str(workdir), 2, images=2, out=str(tmp_path / "a.png"), as_json=False)
    assert capsys.readouterr().out.startswith("step 2 (not logged yet), images 1 to 2 of 16")


def test_substitutes_are_named(workdir, tmp_path, capsys):
    """As the ledger has them, though the scene that was lost can be read."""
    run = open_run(workdir)
    (drawn,) = run.data.order.indices(1, range(1, 2)).tolist()
    lost = run.data.source.record_id(drawn)
    found = run.data.source.record_id(next(run.batches.substitutes(17, drawn)))
    entry = {"step": 1, "slot": 1, "position": 17, "attempt": 0, "cause": "it was broken"}
    (workdir / "quarantine.jsonl").write_text(
        json.dumps({**entry, "id": lost, "substitute": found}) + "\n"
    )
    try:
        show_batch(str(workdir), 1, images=2, out=str(tmp_path / "a.png"), as_json=False)
        heading = capsys.readouterr().out.split("slot 1   ")[1].splitlines()[0]
        assert heading.startswith(f"{found}   64 x 64 px on the canvas   in place of {lost}, which")
        show_where(str(workdir), lost, steps=None, as_json=False)
        assert f"not used: unreadable, {found} took its place" in capsys.readouterr().out
    finally:
        (workdir / "quarantine.jsonl").unlink()


def test_slots_that_cannot_be_rebuilt(workdir, tmp_path, capsys, monkeypatch):
    """They say so everywhere, and have neither a size nor views, which would be of no image."""

    def lossy(*request):
        seen = recorder.rebuild(*request)
        return dataclasses.replace(seen, gone={1: "it is broken"})

    monkeypatch.setattr(show, "rebuild", lossy)
    for as_json in (False, True):
        show_batch(str(workdir), 1, images=2, out=str(tmp_path / "a.png"), as_json=as_json)
        said = capsys.readouterr()
        assert "dinojax.show: slot 1 cannot be rebuilt, because 'scenes/train/" in said.err
        assert "cannot be read now (it is broken); restore it" in said.err
        if as_json:
            kept, lost = json.loads(said.out)
            assert lost.keys() == {"step", "slot", "position", "id", "gone"}
            assert lost["gone"] == "it is broken" and "gone" not in kept
        else:
            lines = said.out.split("slot 1   ")[1].splitlines()
            assert lines[1:] == ["  cannot be read now: it is broken", "", str(tmp_path / "a.png")]


def test_where(workdir, capsys):
    run = open_run(workdir)
    name = run.data.source.record_id(int(run.batches[1]["index"][5]))
    show_where(str(workdir), name, steps=None, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{name} was used {len(lines) - 1} times in steps 0..1"
    assert [line.split() for line in lines[:-1]].count(["step", "1", "slot", "5"]) == 1
    show_where(str(workdir), name, steps=3, as_json=True)
    uses = json.loads(capsys.readouterr().out)
    assert uses == [use._asdict() for use in recorder.uses(run, name, 3)]
    assert {"step": 1, "slot": 5, "kind": "drawn", "other": None} in uses


def test_where_before_the_first_step(workdir, tmp_path):
    (tmp_path / "config.json").write_bytes((workdir / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"steps=0: the run has logged no step yet; .*--steps=3"):
        show_where(str(tmp_path), "scenes/train/000001", steps=None, as_json=False)


@pytest.mark.parametrize(("name", "value"), [("images", 0), ("images", -1), ("image_px", 0)])
def test_counts_that_are_none(name, value):
    given = flags.FlagValues()
    for one in show.COUNTS:
        flags.DEFINE_integer(one, value if one == name else None, "", flag_values=given)
    given.mark_as_parsed()
    with pytest.raises(ValueError, match=rf"--{name}={value} is less than 1; use --{name}=\d+"):
        show.check_counts(given)
    given[name].value = None
    show.check_counts(given)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["batch", "--step=0", "--images=1"], 0, ""),
        (["where", "--id=scenes/train/000003"], 0, ""),
        (["batch"], 2, "dinojax.show: batch needs --step, e.g. --step=0"),
        (["where"], 2, "dinojax.show: where needs --id"),
        (["batch", "--step=3"], 2, "dinojax.show: step=3 is none of the run's train.steps=3"),
        (["where", "--id=x"], 2, "dinojax.show: id='x' is no training record"),
        (["when"], 1, "give one of ('batch', 'where')"),
    ],
)
def test_command(workdir, arguments, code, words):
    done = subprocess.run(
        [sys.executable, "-m", "dinojax.show", f"--workdir={workdir}", *arguments],
        **{"env": {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}, "cwd": ROOT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert words in done.stderr + done.stdout
    assert (done.stdout != "") == (code == 0)
