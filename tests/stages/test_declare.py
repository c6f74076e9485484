"""What a pipeline file may say, and that mistakes in it are named before anything runs."""

import json
import re
from pathlib import Path

import ml_collections
import pytest
from absl import flags
from ml_collections import config_flags

from dinojax.config import default_config, parse_config, to_dict
from dinojax.config.shrink import shrink
from dinojax.stages.declare import (
    evaluate,
    export,
    parse_pipeline,
    pipeline,
    recipe,
    snapshots,
    train,
)
from dinojax.stages.recipe import get_config
from dinojax.stages.record import Inputs, make_record, write_record
from dinojax.stages.run import check, survey
from dinojax.stages.train_stage import TrainStage

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "pipelines" / "tiny.py"


def small(**overrides: object) -> ml_collections.ConfigDict:
    config = shrink(default_config())
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return config


def following(name: str, text: str, **overrides: object):
    return train(name, small(init__from=text, **overrides))


def test_stages_run_in_their_order_but_parents_first():
    stages = parse_pipeline(
        pipeline(
            export("z", checkpoint="stage:m"),
            train("n", small()),
            following("m", "stage:a/checkpoints/3"),
            train("a", small()),
        )
    )
    assert [stage.name for stage in stages] == ["n", "a", "m", "z"]
    assert [stage.parents for stage in stages] == [[], [], ["a"], ["m"]]


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ((train("a", small()), train("a", small())), "stage a is declared twice"),
        (
            (following("a", "stage:pretrian"), train("pretrain", small())),
            "did you mean stage:pretr",
        ),
        ((following("a", "stage:"),), "stage a: config.init.from: 'stage:' is no reference"),
        (
            (following("a", "stage:b"), following("b", "stage:a"), following("c", "stage:b")),
            "wait for each other: a -> b -> a",
        ),
        ((following("a", "stage:a"),), "wait for each other: a -> a"),
        ((("a", ml_collections.ConfigDict({"kind": "trian"})),), "stage a: kind='trian'.*train"),
        (
            (train("a", ml_collections.ConfigDict({"trian": {"steps": 1}})),),
            r"stage a: .*unknown key config.trian; .*train\?",
        ),
        ((train("a-b", small()),), "stage 'a-b' must be named by a word"),
        ((), "a pipeline has stages"),
    ],
)
def test_mistakes_in_declarations(stages, words):
    with pytest.raises(ValueError, match=words):
        parse_pipeline(pipeline(*stages))


def test_keys_of_other_kinds_are_checked_where_they_are_written():
    with pytest.raises(ValueError, match=r"stage a: .*unknown key task; did you mean tasks\?"):
        evaluate("a", checkpoint="stage:b", task=("knn",))
    with pytest.raises(ValueError, match=r"stage a: .*format=3 has the wrong type"):
        export("a", checkpoint="stage:b", format=3)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (train("b", small(crops__global_crops_size=65)), "stage b: .*size=65.*64 or 80"),
        (
            following("b", "stage:a", student__embed_dim=32),
            "stage b: init.from='stage:a' leaves ano",
        ),
        (following("b", "a"), "stage b: init.from='a' does not exist; .* with stage: before it"),
        (following("b", "stage:a#vit"), "stage b: .*'stage:a#vit' is of a run with one student"),
        (
            following("b", "stage:a", gram__use_loss=True, gram__teacher="auto"),
            "stage b: gram.teacher='auto' needs .*after=",
        ),
        (snapshots("b", workdir="stage:a"), "stage b: workdir='stage:a' keeps no snapshots"),
        (train("b", small(data__source="folder:none")), "stage b: .*none"),
        (evaluate("b", checkpoint="stage:a", tasks=("kn",)), "stage b: --tasks=kn: use .* knn"),
        (evaluate("b"), "stage b: checkpoint is missing; .*stage:pretrain"),
        (evaluate("b", checkpoint="runs/none"), "stage b: checkpoint='runs/none' has no checkp"),
        (export("b", checkpoint="stage:a", format="dinov2"), "stage b: .*use --format=dinov3"),
        (
            export("b", checkpoint="stage:a#vit"),
            "stage b: checkpoint='stage:a#vit' is of a run with one",
        ),
    ],
)
def test_what_cannot_run_is_refused_before_anything_does(stage, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        check(parse_pipeline(pipeline(train("a", small()), stage)))


def test_the_tiny_pipeline(tmp_path):
    """Is possible as it is; any key can be set on the command line."""
    argv = [
        *("x", f"--config={TINY}", "--config.stages.pretrain.config.train.steps=70"),
        "--config.stages.teacher_scores.image_px=32",
    ]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", lock_config=True, flag_values=values, sys_argv=argv
    )
    values(argv)
    stages = parse_pipeline(holder.value)
    check(stages)
    given = {stage.name: stage.given for stage in stages}
    assert given["pretrain"].config.train.steps == 70
    assert given["teacher_scores"].image_px == 32
    kinds = ["train", "snapshots", *["train"] * 3, *["evaluate"] * 3, *["export"] * 3]
    assert [stage.kind for stage in stages] == kinds
    reasons = [verdict.reason for verdict in survey(stages, tmp_path)]
    waits = ["after pretrain", "after pretrain, ranking", "after gram", "after high_res"]
    assert reasons[:5] == ["never run", *waits]
    assert not list(tmp_path.iterdir())


def test_a_recipe_file_is_a_stage():
    config = recipe(ROOT / "configs" / "quickstart.py", "32px")
    (stage,) = parse_pipeline(pipeline(train("a", config)))
    assert stage.given == TrainStage(parse_config(config))


def test_the_configuration_that_training_gets(tmp_path):
    """Through the folder of the stage, unchanged."""
    config = small(data__mixture=(("scenes:40", 1.0), ("scenes:50", 2.0)))
    wanted = to_dict(parse_config(config))
    begin = make_record("a", Inputs("train", {}, None), [], {"config": wanted})
    write_record(tmp_path, json.loads(json.dumps(begin)))
    assert to_dict(parse_config(get_config(str(tmp_path)))) == wanted
    with pytest.raises(ValueError, match=re.escape("has no stage.json")):
        get_config(str(tmp_path / "none"))


def test_what_a_run_depends_on():
    """Not how often it is saved; but what it keeps for others."""

    def settings(**overrides: object):
        return TrainStage(parse_config(small(**overrides))).settings()

    assert settings(checkpoint__every_steps=1, knn__k=3, mesh__data=1) == settings()
    for key in ("checkpoint.snapshot_every_steps", "optim.lr.peak", "train.steps"):
        changed = settings(**{key.replace(".", "__"): 1})
        assert changed[key] == 1 and {**changed, key: settings()[key]} == settings()


def test_the_command_of_a_run(tmp_path):
    """That of training, or with a launcher what the scripts in ``launch/`` take."""
    given = TrainStage(parse_config(small()))
    alone = given.command(tmp_path, ())
    assert alone[1:3] == ["-m", "dinojax.train"] and f"--workdir={tmp_path}" in alone
    launched = given.command(tmp_path, ("launch/local.sh",))
    config = next(a.removeprefix("--config=") for a in alone if a.startswith("--config="))
    assert launched[:3] == ["launch/local.sh", config, str(tmp_path)]
    assert launched[3:] == [a for a in alone if a.startswith("--allow_change=")] != []
