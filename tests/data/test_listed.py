"""Files by a list: order, ids, labels and mistakes."""

import numpy as np
import pytest
from images import encode, write_folder

from dinojax.data.decode import read_image
from dinojax.data.listed import ListedFiles


def test_records_are_in_the_lists_order(tmp_path):
    files = {f"b/{i}.png": encode(np.full((4, 4, 3), i, np.uint8), "PNG") for i in range(3)}
    source = ListedFiles(
        write_folder(tmp_path, files), ["b/2.png", "b/0.png"], [1, 0], ["cat", "dog"]
    )
    assert len(source) == 2 and source.record_id(0) == "b/2.png"
    assert [source[i].label for i in range(2)] == [1, 0]
    assert [read_image(source[i], 4).max() for i in range(2)] == [2, 0]
    assert ListedFiles(tmp_path, ["b/1.png"])[0].label is None
    with pytest.raises(IndexError):
        source[2]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="is empty"):
        ListedFiles(tmp_path, [])
    with pytest.raises(ValueError, match=r"names 'a' 2 times"):
        ListedFiles(tmp_path, ["b", "a", "a"])
    for labels in ([0], [0, 2], [0, -1]):
        with pytest.raises(ValueError, match=r"one each in 0\.\.1"):
            ListedFiles(tmp_path, ["a", "b"], labels, ["cat", "dog"])
