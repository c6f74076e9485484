"""Revisited Oxford as a miniature: what is asked for, where, and what is passed over."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from images import encode, write_folder

from dinojax.data.decode import read_image
from dinojax.data.layouts.table import open_layout

IMAGES = ["all_souls_1", "oxford_2", "radcliffe_3"]


def ground_truth() -> dict:
    """As the benchmark's pickle holds it: arrays of places."""
    return {
        "imlist": IMAGES,
        "qimlist": ["all_souls_1", "query_9"],
        "gnd": [
            {
                "bbx": [2.0, 1.0, 6.4, 4.0],
                "easy": np.array([0]),
                "hard": np.array([2]),
                "junk": np.array([], int),
            },
            {"bbx": [0, 0, 8, 6], "easy": [], "hard": [1], "junk": [0]},
        ],
    }


def write(root, content=None):
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    files = {f"jpg/{name}.jpg": encode(image, "PNG") for name in (*IMAGES, "query_9")}
    write_folder(root, files)
    text = json.dumps(content or ground_truth(), default=lambda array: array.tolist())
    (root / "gnd_roxford5k.json").write_text(text)
    return image


def test_judgements_and_boxes(tmp_path):
    image = write(tmp_path)
    records = open_layout("roxford5k", str(tmp_path))
    assert [records.train.record_id(i) for i in range(3)] == [f"{name}.jpg" for name in IMAGES]
    assert [[part.tolist() for part in one] for one in records.judged] == [
        [[0], [2], []],
        [[], [1], [0]],
    ]
    np.testing.assert_array_equal(read_image(records.test[0], 64), image[1:4, 2:6])
    np.testing.assert_array_equal(read_image(records.test[1], 64), image)
    assert records.test.record_id(1) == "query_9.jpg"


def test_the_published_pickle_is_not_read(tmp_path):
    """The message has the command that turns it into JSON; it works."""
    (tmp_path / "gnd_rparis6k.pkl").write_bytes(pickle.dumps(ground_truth()))
    with pytest.raises(FileNotFoundError, match=r"gnd_rparis6k.json is missing") as caught:
        open_layout("rparis6k", str(tmp_path))
    code = str(caught.value).split('python -c "')[1].split('"')[0]
    write(tmp_path)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert len(open_layout("rparis6k", str(tmp_path)).judged) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gnd": []}, "judges 0 queries of 2"),
        ({"imlist": IMAGES[:2]}, "names the place 2 of 2 images"),
        ({"gnd": [{"easy": []}] * 2}, "holds no judgements"),
    ],
)
def test_other_files(tmp_path, change, words):
    write(tmp_path, {**ground_truth(), **change})
    with pytest.raises(ValueError, match=words):
        open_layout("roxford5k", str(tmp_path))


def test_an_empty_box(tmp_path):
    content = ground_truth()
    content["gnd"][0]["bbx"] = [5, 1, 5, 4]
    write(tmp_path, content)
    with pytest.raises(ValueError, match=r"'all_souls_1.jpg': its box .* is empty"):
        open_layout("roxford5k", str(tmp_path)).test[0]
