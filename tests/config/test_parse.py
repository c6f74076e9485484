"""From a recipe's ConfigDict to typed values, or one sentence."""

import json
from pathlib import Path

import ml_collections
import pytest
from absl import flags
from ml_collections import config_flags

from dinojax.config import Config, default_config, parse_config, to_dict
from dinojax.config.parse import quote_keywords


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


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_key_that_is_a_keyword_can_be_set_by_a_flag():
    recipe = Path(__file__).parents[2] / "configs" / "quickstart.py"
    argv = ["x", f"--config={recipe}", "--config.init.from=runs/x=1", "--from=2", "--", "a.from"]
    quoted = quote_keywords(argv)
    assert quoted == [*argv[:2], '--config.init["from"]=runs/x=1', *argv[3:]]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=quoted[:3])
    values(quoted[:3])
    assert parse_config(holder.value).init.from_ == "runs/x=1"
