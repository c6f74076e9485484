"""From a recipe's ConfigDict to typed values, or one sentence."""

import json

import ml_collections
import pytest
from absl import flags
from ml_collections import config_flags

from dinojax.config import Config, default_config, parse_config, to_dict
from dinojax.config_parse import quote_keywords


def test_defaults_survive_the_round_trip():
    assert parse_config(default_config()) == Config()
    assert parse_config(ml_collections.ConfigDict()) == Config()


def test_unknown_keys_and_types_are_refused():
    config = default_config()
    with pytest.raises(AttributeError, match="peak"):
        config.optim.lr.peek = 1.0
    config.unlock()
    config.optim.lr.peek = 1.0
    with pytest.raises(ValueError, match=r"optim\.lr\.peek; did you mean optim\.lr\.peak"):
        parse_config(config)
    bare = ml_collections.ConfigDict({"train": {"steps": "many"}})
    with pytest.raises(ValueError, match=r"train\.steps='many'"):
        parse_config(bare)


def test_pairs_and_keys_of_several_types():
    """As recipes set them, as flags do, and as they come back from ``config.json``."""
    config = default_config()
    config.data.mixture = (("a", 1), ("b", 0.5))
    config.crops.global_crops_size = (64, 96)
    config.crops.global_local_crop_pairs_ratios = [1, 2.0]
    parsed = parse_config(config)
    assert parsed.data.mixture == (("a", 1.0), ("b", 0.5))
    assert parsed.crops.global_crops_size == (64, 96)
    assert parsed.crops.global_local_crop_pairs_ratios == (1.0, 2.0)
    assert parsed.crops.gram_teacher_crops_size is None
    stored = json.loads(json.dumps(to_dict(parsed)))
    assert parse_config(ml_collections.ConfigDict(stored)) == parsed


@pytest.mark.parametrize(
    ("mixture", "where"),
    [
        (("a", 1.0), r"data\.mixture\[0\]='a'"),
        ((("a",),), r"data\.mixture\[0\]=\('a',\)"),
        ((("a", "b"),), r"data\.mixture\[0\]\[1\]='b'"),
    ],
)
def test_pairs_of_other_types_are_refused(mixture, where):
    with pytest.raises(ValueError, match=f"{where} has the wrong type"):
        parse_config(ml_collections.ConfigDict({"data": {"mixture": mixture}}))


def test_keywords_in_flags(tmp_path):
    """What ml_collections cannot parse as Python is quoted for it, and reaches the config."""
    argv = ["app", "--config.init.from=runs/x.from", "--config.seed=1", "--workdir=a.from=b", "-x"]
    quoted = quote_keywords(argv)
    assert quoted == ["app", '--config.init["from"]=runs/x.from', *argv[2:]]
    recipe = tmp_path / "recipe.py"
    recipe.write_text("from dinojax.config import default_config as get_config\n")
    argv, values = ["app", f"--config={recipe}", quoted[1]], flags.FlagValues()
    given = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    assert parse_config(given.value).init.from_ == "runs/x.from"
