"""Parts, lists and shares to the data of a run, and what such a run is bound to."""

import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from dinojax.config import parse_config, to_dict
from dinojax.config.curation import parse_config as parse_curation
from dinojax.config.data import DataConfig
from dinojax.curation import mix_stage as module
from dinojax.curation.mix_stage import MixOptions, lists_of, mix_stage
from dinojax.curation.stage_folder import claim, finish
from dinojax.curation.tables import write_table
from dinojax.data.check import fingerprint
from dinojax.data.open import open_source
from dinojax.data.order import Order
from dinojax.runtime.contract import write_or_check
from dinojax.train import train
from dinojax.training.data import open_data

SCENES = [open_source("scenes:60").record_id(index) for index in range(60)]


def write_selection(folder, times, name="selection.parquet"):
    """As the stages ``sample`` and ``retrieve`` leave it."""
    claim(folder, {"seed": 0})
    columns = {
        "id": pa.array(list(times), pa.string()),
        "multiplicity": np.array(list(times.values()), np.int64),
    }
    write_table(folder / name, columns)
    finish(folder, {}, [folder / name])
    return folder / name


@pytest.fixture
def selection(tmp_path):
    """10 scenes, the first of them three times."""
    return write_selection(
        tmp_path / "sample", {id: 3 if id == SCENES[0] else 1 for id in SCENES[:10]}
    )


@pytest.fixture
def options(selection) -> MixOptions:
    parts = (
        ("sampled", f"ids:{selection}:scenes:60"),
        ("retrieved", "scenes:20"),
        ("curated", "scenes:30"),
    )
    return MixOptions(parts, homogeneous="curated", steps=100, batch_size=16)


def flags_in(folder) -> dict:
    text = (folder / "data.flags").read_text()
    return dict(re.findall(r"^--config\.data\.(\w+)=(.*)$", text, re.M))


RECIPE = """
from dinojax.config import default_config
from dinojax.config.shrink import shrink

def get_config():
    config = shrink(default_config())
    config.train.batch_size, config.train.draw_group_size = 16, 1  # on 8 devices
    config.dino.koleo_group_size, config.data.holdout = 2, 0.3
    config.data.source = "folder:/of/the/recipe"
    return config
"""


def training_config(folder):
    """What the command ``--config=RECIPE --flagfile=MIX`` makes of a recipe."""
    recipe = folder.parent / "recipe.py"
    recipe.write_text(RECIPE)
    command = ["train", f"--config={recipe}", f"--flagfile={folder / 'data.flags'}"]
    given = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=given, sys_argv=command)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # how ml_collections loads a file
        given(command)
    return parse_config(given.config)


def test_weights_are_the_numbers_of_records(options, tmp_path):
    """With copies; what makes homogeneous steps is in no other."""
    report = mix_stage(options, tmp_path / "mix")
    parts = report["parts"]
    assert {name: part["weight"] for name, part in parts.items()} == {
        "sampled": 12.0,
        "retrieved": 20.0,
        "curated": 0.0,
    }
    assert (parts["sampled"]["records"], parts["sampled"]["copies"]) == (10, 12)
    share = {name: part["share"] for name, part in parts.items()}
    expected = {"sampled": 0.3375, "retrieved": 0.5625, "curated": 0.1}
    assert share == pytest.approx(expected, abs=2e-3)
    # Of 1600 images; a copy is seen as often as any other record of its part.
    assert parts["sampled"]["seen"]["mean"] == pytest.approx(1600 * 0.3375 / 10, rel=0.01)
    assert parts["sampled"]["seen"]["most"] == pytest.approx(3 * 1600 * 0.3375 / 12, rel=0.01)
    assert parts["curated"]["seen"] == {"mean": 160 / 30, "most": 160 / 30}


def test_training_reads_it(options, tmp_path):
    mix_stage(options, tmp_path / "mix")
    data = open_data(training_config(tmp_path / "mix"))
    assert data.order.weights == (12.0, 20.0, 0.0) and data.order.homogeneous_share == 0.1
    assert data.order.homogeneous_part == 2
    assert data.order.sizes[:2] == (12, 20) and data.order.sizes[2] + len(data.queries) == 30
    ids = [data.source.record_id(index) for index in range(12)]
    assert sorted(ids) == sorted(f"0/{id}" for id in (*SCENES[:10], SCENES[0], SCENES[0]))


def test_without_homogeneous_steps_and_with_weights(options, tmp_path):
    given = replace(options, homogeneous=None, weights=(1.0, 2.5, 0.5))
    report = mix_stage(given, tmp_path / "mix")
    assert report["homogeneous_share"] == 0
    assert flags_in(tmp_path / "mix").keys() == {"source", "mixture"}
    order = open_data(training_config(tmp_path / "mix")).order
    assert order.weights == (1.0, 2.5, 0.5) and order.homogeneous_part is None
    assert report["parts"]["retrieved"]["share"] == pytest.approx(2.5 / 4, abs=2e-3)


def test_the_source_that_the_flags_restore_is_the_default(options, tmp_path):
    """A recipe with a source of its own would refuse a mixture beside it."""
    mix_stage(options, tmp_path / "mix")
    assert flags_in(tmp_path / "mix")["source"] == DataConfig().source


def test_a_list_that_has_changed_ends_the_run(options, selection, tmp_path):
    """Its path is the same, its ids are others: the contract of a run knows."""
    mix_stage(options, tmp_path / "mix")
    given, workdir = training_config(tmp_path / "mix"), tmp_path / "run"
    data = open_data(given)
    found = fingerprint(data.source, data.order.mixture)
    write_or_check(workdir, to_dict(given), found._asdict())
    times = {id: 3 if id == SCENES[1] else 1 for id in SCENES[:10]}  # as many, others of them
    write_table(selection, {"id": list(times), "multiplicity": list(times.values())})
    with pytest.raises(ValueError, match=r"belongs to another run: data fingerprint was"):
        train(given, str(workdir))
    with pytest.raises(ValueError, match=r"is not what report.json says; delete"):
        mix_stage(options, tmp_path / "mix")


def test_what_is_done_stays_and_other_inputs_are_refused(options, selection, tmp_path):
    folder = tmp_path / "mix"
    report = mix_stage(options, folder)
    assert mix_stage(options, folder) == report == json.loads((folder / "report.json").read_text())
    assert report["parts"]["sampled"]["lists"] == [
        json.loads((selection.parent / "report.json").read_text())["fingerprint"]
    ]
    for values, words in (
        ({"weights": (1.0, 1.0, 0.0)}, r"weights was \[12.0, 20.0, 0.0\] and is"),
        ({"homogeneous": "retrieved"}, "homogeneous was"),
        ({"homogeneous_share": 0.2}, "homogeneous_share was 0.1"),
        ({"steps": 99}, "steps was 100"),
        ({"batch_size": 8}, "batch_size was 16"),
        ({"parts": options.parts[::-1]}, "parts was"),
        ({"parts": (*options.parts[1:], ("sampled", "scenes:12"))}, "part sampled was"),
    ):
        with pytest.raises(ValueError, match=f"is of other inputs: .*{words}"):
            mix_stage(replace(options, **values), folder)


def test_killed_before_the_report(options, tmp_path, monkeypatch):
    def dies(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "finish", dies)
        mix_stage(options, tmp_path / "mix")
    again, other = mix_stage(options, tmp_path / "mix"), mix_stage(options, tmp_path / "other")
    assert again["outputs"] == other["outputs"]


def test_lists_of_nested_sources():
    found = lists_of("ids:a.txt:ids:b/c.parquet:scenes:60")
    assert [str(path) for path in found] == ["a.txt", "b/c.parquet"]
    assert not list(lists_of("folder:ids"))


def test_lists(options, selection, tmp_path):
    """Of stages they must be finished and as they were; others are taken as they are."""
    own = tmp_path / "own.txt"
    own.write_text("\n".join(SCENES[:5]))

    def of(file):
        return replace(options, parts=(("a", f"ids:{file}:scenes:60"), *options.parts[1:]))

    report = mix_stage(of(own), tmp_path / "own")
    assert report["parts"]["a"]["lists"] == [None] and report["parts"]["a"]["records"] == 5

    own.write_text("elsewhere/1\n")
    claim(tmp_path / "begun", {"seed": 1})
    write_table(tmp_path / "begun" / "selection.parquet", {"id": SCENES[:3]})
    write_table(selection.parent / "mine.parquet", {"id": SCENES[:3]})
    empty = write_selection(tmp_path / "empty", {})
    for file, words in (
        (own, "1 of 1 listed ids are not in the source of 60 records: 'elsewhere/1'"),
        (tmp_path / "begun" / "selection.parquet", "run python -m dinojax.curate begun first"),
        (selection.parent / "mine.parquet", "is no table of its stage; use one of"),
        (empty, "lists no ids; list at least 1"),
        (tmp_path / "none.txt", "none.txt is not a file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            mix_stage(of(file), tmp_path / "mix")
        assert words in str(error.value)
    assert not (tmp_path / "mix").exists()


def test_mistakes(options, tmp_path):
    twice = (("a", "scenes:20"), ("b", "scenes:20"))
    for values, words in (
        ({"parts": ()}, "mix.parts is empty; give some"),
        ({"parts": twice, "homogeneous": None}, "has the source 'scenes:20' twice; give it once"),
        ({"parts": (("a", "scenes:20"), ("a", "scenes:30"))}, "mix.parts names 'a' twice"),
        ({"parts": (("a", "/none"),), "homogeneous": None}, "source '/none' is neither"),
        ({"weights": (1.0,)}, "mix.weights=(1.0,) must have one for each of mix.parts="),
        ({"weights": (1.0, -1.0, 0.0)}, "weights (1.0, -1.0, 0.0) must be finite, none negative"),
        ({"weights": (1.0, 0.0, 0.0)}, "nothing would ever be drawn from part 1"),
        ({"homogeneous": "x"}, "mix.homogeneous='x' is not in mix.parts; use one of"),
        ({"homogeneous_share": 1.0}, "homogeneous_share=1.0 must lie strictly between 0 and 1"),
        ({"homogeneous_share": 0.0}, "homogeneous_share=0.0 must lie strictly between 0 and 1"),
        (
            {"parts": options.parts[2:]},
            "weights (0.0,) must be finite, none negative",
        ),
        ({"steps": 0}, "mix.steps=0 must be at least 1"),
        ({"batch_size": 0}, "mix.batch_size=0 must be at least 1"),
    ):
        with pytest.raises(ValueError) as error:
            mix_stage(replace(options, **values), tmp_path / "mix")
        assert words in str(error.value)
    assert not (tmp_path / "mix").exists()


def test_counts_are_those_of_the_run(options, tmp_path):
    """What the report says of 40 steps is what they draw."""
    report = mix_stage(replace(options, steps=40), tmp_path / "mix")
    specs = [spec for _, spec in options.parts]
    sizes = [len(open_source(spec)) for spec in specs]
    order = Order(tuple(sizes), 16, 5, (12.0, 20.0, 0.0), 2, 0.1)
    drawn = np.concatenate([order.indices(step, range(16)) for step in range(40)])
    ends = np.cumsum(sizes)
    shares = np.bincount(np.searchsorted(ends, drawn, side="right"), minlength=3) / len(drawn)
    told = [part["share"] for part in report["parts"].values()]
    np.testing.assert_allclose(told, shares, atol=0.01)


def test_unknown_keys():
    with pytest.raises(ValueError, match=r"unknown key mix.weight; did you mean mix.weights"):
        parse_curation(ConfigDict({"mix": {"weight": (1.0,)}}))
    with pytest.raises(ValueError, match=r"unknown key embed.source; did you mean embed.sources"):
        parse_curation(ConfigDict({"embed": {"source": "x"}}))
    with pytest.raises(ValueError, match=r"mix.parts\[0\]='a' has the wrong type"):
        parse_curation(ConfigDict({"mix": {"parts": ("a", "b")}}))
