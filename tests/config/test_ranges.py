"""Numbers outside of their range are refused, each with one that works."""

import re

import pytest

from dinojax.config import default_config, parse_config
from dinojax.config.ranges import RANGES, check_ranges


@pytest.mark.parametrize("key", RANGES)
def test_each_number_has_a_range_that_its_own_remedy_is_in(key):
    allowed = RANGES[key]
    assert allowed.holds(allowed.works)
    given = default_config()
    outside = allowed.low - 1
    given.update_from_flattened_dict({key: type(allowed.works)(outside)})
    with pytest.raises(ValueError, match=re.escape(f"{key}={outside}") + r"(\.0)? must "):
        check_ranges(parse_config(given))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("knn.every_steps", -1, "must be at least 0; 0 switches it off"),
        ("knn.batch_size", 0, "must be at least 1; use 256"),
        ("data.prefetch_mb", -1, "must be at least 0; use 4096"),
        ("checkpoint.snapshot_every_steps", 0, "must be at least 1; use 10000"),
        ("checkpoint.keep_every_steps", 0, "must be at least 1; use 50000"),
    ],
)
def test_messages(key, value, words):
    given = default_config()
    given.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=re.escape(f"{key}={value} {words}")):
        check_ranges(parse_config(given))
