"""Chunks of rows that come and go."""

import jax.numpy as jnp
import numpy as np

from dinojax.curation.parts import Joined, Picked, chunks_of, each, place, to_host

ROWS = np.arange(30, dtype=np.float32).reshape(10, 3)


class Watched:
    """Rows that say what was asked for."""

    def __init__(self):
        self.asked, self.shape = [], ROWS.shape

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, part):
        self.asked.append(part)
        return ROWS[part]


def test_a_part_of_the_rows():
    chunk = place(ROWS, 4, 100)
    assert chunk.count == 6
    np.testing.assert_array_equal(chunk.rows[:6], ROWS[4:])
    assert chunk.rows.shape == (1024, 3) and (chunk.rows[6:] == 0).all()


def test_picked_rows_stay_where_they_are():
    rows = Watched()
    places = np.asarray([9, 2, 5, 4])
    some = Picked(rows, places)
    assert some.shape == (4, 3) and len(some) == 4 and not rows.asked
    (first, second) = chunks_of(some, 3)()
    np.testing.assert_array_equal(first.rows[:3], ROWS[places[:3]])
    np.testing.assert_array_equal(second.rows[:1], ROWS[places[3:]])
    assert [part.tolist() for part in rows.asked] == [[9, 2, 5], [4]]


def test_joined_rows_stay_where_they_are():
    rows = Watched()
    picked = Picked(rows, np.asarray([9, 2]))
    every, whole = (
        Joined((ROWS[:4], picked, ROWS[4:])),
        np.concatenate([ROWS[:4], ROWS[[9, 2]], ROWS[4:]]),
    )
    assert every.shape == (12, 3) and len(every) == 12 and not rows.asked
    some = np.asarray([11, 0, 5, 4, 4])
    for part in (slice(3, 7), slice(0, 2), slice(5, 99), slice(7, 7), some):
        np.testing.assert_array_equal(every[part], whole[part])


def test_one_chunk_ahead_and_no_more():
    rows = Watched()
    found = each(lambda chunk: chunk.rows.sum(), chunks_of(rows, 2))
    for number, one in enumerate(found):
        assert len(rows.asked) == min(number + 2, 5)
        assert one == ROWS[2 * number : 2 * number + 2].sum()
    assert number == 4


def test_to_host():
    found = to_host({"a": jnp.arange(3)})
    assert isinstance(found["a"], np.ndarray) and found["a"].tolist() == [0, 1, 2]
