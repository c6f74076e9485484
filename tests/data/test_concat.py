"""Parts end to end."""

import pytest
from images import ArraySource

from dinojax.data.concat import Concat
from dinojax.data.source import Source


def test_records_come_from_their_part():
    both = Concat([ArraySource(3), ArraySource(2)])
    assert isinstance(both, Source) and len(both) == 5 and both.class_names is None
    records = [both[i] for i in range(5)]
    assert [record.id for record in records] == [both.record_id(i) for i in range(5)]
    assert [record.id for record in records] == [
        *("0/array/0", "0/array/1", "0/array/2", "1/array/0", "1/array/1")
    ]
    assert [record.image[0, 0, 0] for record in records] == [1, 2, 3, 1, 2]
    assert {record.label for record in records} == {None}


@pytest.mark.parametrize("index", [-1, 5])
def test_outside(index):
    both = Concat([ArraySource(3), ArraySource(2)])
    with pytest.raises(IndexError, match=rf"index={index} must lie in 0..4"):
        both[index]
    with pytest.raises(IndexError, match=rf"index={index} must lie in 0..4"):
        both.record_id(index)
