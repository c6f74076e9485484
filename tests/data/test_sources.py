"""What every kind of source promises, over one dataset in the layout of each."""

import inspect
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import numpy as np
import pytest
from datasets import CLASSES, COUNT, KINDS, build

from dinojax.data.maps import decode_record
from dinojax.data.open import open_source
from dinojax.data.source import Source


@pytest.fixture(scope="module")
def specs(tmp_path_factory) -> dict[str, str]:
    return {kind: build(kind, tmp_path_factory.mktemp("data")) for kind in KINDS}


@pytest.fixture(params=KINDS)
def spec(request, specs) -> str:
    return specs[request.param]


def numbers(source: Source) -> list[int]:
    """Which record of the dataset is at each index, told by its pixels."""
    return [int(decode_record(source[i], 16).image[0, 0, 0]) // 20 for i in range(len(source))]


def test_every_record_is_there_once_with_its_label_and_maps(spec):
    source = open_source(spec)
    assert isinstance(source, Source) and len(source) == COUNT
    assert sorted(numbers(source)) == list(range(COUNT))
    for index, i in enumerate(numbers(source)):
        record = source[index]
        image, segmentation, depth = decode_record(record, 16)
        assert np.all(image == 20 * i) and image.shape == (12, 10, 3)
        assert record.label == i % 2
        assert segmentation is not None and segmentation.shape == (12, 10)
        assert np.all(segmentation == i)
        assert depth is not None and depth.shape == (12, 10) and depth.dtype == np.float32
        assert np.all(depth == i + 0.5)


def test_class_names(spec):
    names = open_source(spec).class_names
    if "shards" in spec:  # .cls files hold numbers
        assert names == ["0", "1"]
    elif "*.array_record" in spec:  # without a manifest nobody knows
        assert names is None
    else:
        assert names == CLASSES


def test_ids_are_unique_and_known_without_reading(spec):
    source = open_source(spec)
    ids = [source.record_id(i) for i in range(COUNT)]
    assert len(set(ids)) == COUNT and [source[i].id for i in range(COUNT)] == ids


def contents(spec: str) -> str:
    """Ids, images and labels in their order."""
    source = open_source(spec)
    digest = blake2b()
    for index in range(len(source)):
        record = source[index]
        digest.update(f"{record.id} {record.label}".encode() + bytes(record.image))
    return digest.hexdigest()


def test_another_process_sees_the_same_order_ids_and_bytes(specs):
    lines = (
        "import sys",
        "from hashlib import blake2b",
        "from dinojax.data.open import open_source",
        inspect.getsource(contents),
        "print(*map(contents, sys.argv[1:]))",
        "print(*{'tensorflow', 'jax', 'grain'} & sys.modules.keys())",
    )
    there = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), *specs.values()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
    )
    digests, heavy = there.stdout.split("\n", 1)
    assert digests.split() == list(map(contents, specs.values())), there.stderr
    assert not heavy.split()  # a worker that reads needs none of them


def test_pickles_small_and_without_open_files(spec):
    source = open_source(spec)
    before = numbers(source)
    data = pickle.dumps(source)
    assert len(data) < 4000
    opened = len(os.listdir("/proc/self/fd"))
    copy = pickle.loads(data)
    if not spec.startswith("numpy"):  # maps its files at once, and keeps none of them open
        assert len(os.listdir("/proc/self/fd")) == opened
    assert numbers(copy) == before and numbers(source) == before
    assert copy.class_names == source.class_names


def test_reads_from_many_threads(spec):
    source = open_source(spec)
    single = [source[i] for i in range(COUNT)]
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(source.__getitem__, list(range(COUNT)) * 20))
    for got, wanted in zip(records, single * 20, strict=True):
        assert got.id == wanted.id and got.label == wanted.label
        assert np.array_equal(np.asarray(got.image), np.asarray(wanted.image))


def test_index_outside(spec):
    source = open_source(spec)
    for index in (-1, COUNT):
        with pytest.raises(IndexError, match=rf"index={index} must lie in 0..{COUNT - 1}"):
            source[index]
        with pytest.raises(IndexError):
            source.record_id(index)
