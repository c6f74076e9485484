"""Every file has one writer, whoever is there."""

import jax
import pytest

from dinojax.runtime import agreement, divided_files
from dinojax.runtime.divided_files import await_all, own_missing


def test_one_process_writes_what_is_missing(tmp_path):
    paths = [tmp_path / str(i) for i in range(11)]
    for place in (0, 3, 9):
        paths[place].touch()
    assert own_missing(paths) == [1, 2, 4, 5, 6, 7, 8, 10]


@pytest.mark.parametrize("count", [2, 3, 20])
def test_several_share_what_the_first_one_misses(tmp_path, monkeypatch, count):
    """Whatever the others see of their storage."""
    paths = [tmp_path / str(i) for i in range(11)]
    paths[5].touch()
    told = []

    def gather(name, value):
        told.append(value)
        return [told[0], *told[1:]]

    monkeypatch.setattr(divided_files, "gather", gather)
    monkeypatch.setattr(jax, "process_count", lambda: count)
    parts = []
    for process in range(count):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        parts.append(own_missing(paths))
        paths[0].touch()
    assert sorted(place for part in parts for place in part) == [0, 1, 2, 3, 4, *range(6, 11)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_waiting_for_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(agreement, "VISIBLE_WITHIN_S", 0)
    (tmp_path / "a").touch()
    await_all([tmp_path / "a"])
    with pytest.raises(ValueError, match=r"b is not here as another process has written it"):
        await_all([tmp_path / "a", tmp_path / "b"])
