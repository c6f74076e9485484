"""Sweep files as runs: what is checked before anything starts, and names that stay."""

import json
from pathlib import Path

import pytest
from expand import expand, load, run_name

# ml_collections loads a config in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
ROOT = Path(__file__).parents[2]
RECIPE = "configs/dinov3_vitl16_in1k.py:debug"


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Writes a sweep file; configs are named relative to the root of the repository."""
    monkeypatch.chdir(ROOT)

    def write(*overrides, recipe: str = RECIPE) -> str:
        file = tmp_path / "sweep.py"
        file.write_text(
            f"CONFIG = {recipe!r}\n\ndef get_sweep():\n    yield from {list(overrides)!r}\n"
        )
        return str(file)

    return write


def test_the_shipped_sweep(monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = expand("configs/sweeps/quickstart_lr.py", "runs/lr")
    assert [run.name for run in runs] == [
        f"optim.lr.peak={peak},train.seed={seed}"
        for peak in ("0.0005", "0.001", "0.002")
        for seed in (0, 1)
    ]
    assert runs[1].command == [
        *("python", "-m", "dinojax.train", "--config=configs/quickstart.py"),
        "--workdir=runs/lr/optim.lr.peak=0.0005,train.seed=1",
        *("--config.optim.lr.peak=0.0005", "--config.train.seed=1"),
    ]


@pytest.mark.slow
def test_the_ablations_of_dinov2(monkeypatch):
    """From iBOT to the recipe in rows that each change something, four datasets, three losses."""
    monkeypatch.chdir(ROOT)
    for table, rows in ((1, 11), (2, 4), (3, 3)):
        runs = expand(f"configs/sweeps/dinov2_table{table}.py", "runs")
        assert len({run.overrides for run in runs}) == len(runs) == rows
        if table == 1:
            ibot, *between, dinov2 = (len(run.overrides) for run in runs)
            assert sorted([ibot, *between, dinov2], reverse=True) == [ibot, *between, dinov2]
            assert ibot == 15 and dinov2 == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.seed", 7),
        ("optim.lr.peak", 1e-05),
        ("dino.global_ignore_diagonal", False),
        ("crops.local_crops_scale", (0.1, 0.5)),
        ("crops.global_crops_size", (64, 96)),
        ("data.source", "folder:/data/my images"),
        ("data.mixture", (("scenes", 1.0), ("folder:/x", 3.0))),
        ("student.embed_dim", 128),
    ],
)
def test_values_arrive_as_they_were_meant(monkeypatch, sweep, key, value):
    """Through the flags of `dinojax.train`."""
    monkeypatch.setattr("expand.validate", lambda config, batch_shards: None)
    (run,) = expand(sweep({key: value}), "w")
    node = load(RECIPE, run.overrides)
    for part in key.split("."):
        node = getattr(node, part)
    assert node == value and type(node) is type(value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([{"optim.lr.peek": 1e-3}], "no key 'optim.lr.peek'; did you mean optim.lr.peak"),
        ([{"optim.lr": 1e-3}], "no key 'optim.lr'; did you mean"),
        ([{}, {"train.seed": "zero"}], "'train.seed': 'zero'.*train.seed=zero"),
        ([{"train.steps": 0}], "train.steps=0 must be at least 1"),
        ([{"train.seed": 0}, {"train.seed": 0}], "{'train.seed': 0} twice"),
        ([{"data.source": "a\tb"}], "tab or line break"),
        ([], "yields nothing"),
    ],
)
def test_refusals(sweep, overrides, words):
    with pytest.raises(ValueError, match=words):
        expand(sweep(*overrides), "w")


def test_a_file_that_is_no_sweep(tmp_path):
    (tmp_path / "x.py").write_text("CONFIG = 'configs/quickstart.py'\n")
    with pytest.raises(ValueError, match="no get_sweep; it needs both"):
        expand(str(tmp_path / "x.py"), "w")


def test_names_depend_on_the_overrides_alone():
    assert run_name({}) == "recipe"
    assert run_name({"train.seed": 0, "optim.lr.peak": 1e-3}) == "optim.lr.peak=0.001,train.seed=0"
    assert run_name({"optim.lr.peak": 1e-3, "train.seed": 0}) == "optim.lr.peak=0.001,train.seed=0"
    paths = [run_name({"data.source": source}) for source in ("folder:/a/b", "folder:/a-b")]
    assert all(name.startswith("data.source=folder-a-b-") for name in paths)
    assert len({*paths, *(run_name({"data.ids": "x" * n}) for n in (300, 301))}) == 4
    assert len(run_name({"data.ids": "x" * 300})) < 140


def test_finished_is_a_summary_of_this_configuration(sweep, tmp_path):
    (run,) = expand(sweep({"train.seed": 3}), str(tmp_path))
    assert not run.is_finished()
    workdir = Path(run.workdir)
    workdir.mkdir()
    contract = {
        "config": {},
        "config_hash": run.binding,
        "data_fingerprint": {},
        "versions": {},
        "history": [],
    }
    (workdir / "config.json").write_text(json.dumps(contract))
    assert not run.is_finished()  # started
    (workdir / "summary.json").write_text("{}")
    assert run.is_finished()
    # The sweep's recipe has changed since, in what its name does not say.
    (other,) = expand(sweep({"train.seed": 3}, recipe="configs/quickstart.py"), str(tmp_path))
    with pytest.raises(ValueError, match=r"another configuration.*use another --workdir"):
        other.is_finished()
