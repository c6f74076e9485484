"""From a recipe's ConfigDict to typed values, or one sentence."""

import ml_collections
import pytest

from dinojax.config import Config, default_config, parse_config


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
