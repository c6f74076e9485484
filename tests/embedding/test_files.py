"""Files of rows that come batch by batch."""

import weakref

import numpy as np
import pytest

from dinojax.embedding.files import FORMATS, Rows


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_no_more_than_two_batches_are_held(tmp_path, format):
    """The one that is written, and the one that is computed meanwhile."""
    made: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def batches():
        for number in range(6):
            values = np.full((3, 2, 4), number, np.float32)
            made.append(weakref.ref(values))
            alive.append(sum(one() is not None for one in made))
            yield Rows([f"{number}/{i}" for i in range(3)], np.arange(3), {"patches": values})
            del values

    ending, write, _ = FORMATS[format]
    write(tmp_path / f"x{ending}", batches())
    assert alive == [1, 2, 2, 2, 2, 2]
    assert [path.name for path in tmp_path.iterdir()] == [f"x{ending}"]


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_nothing_is_left_of_a_file_that_fails(tmp_path, format):
    def batches():
        yield Rows(["a"], np.array([0]), {"cls": np.zeros((1, 4), np.float32)})
        raise KeyboardInterrupt

    ending, write, _ = FORMATS[format]
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / f"x{ending}", batches())
    assert not list(tmp_path.iterdir())
