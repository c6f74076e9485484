"""One run on any number of hosts and workers, resumed anywhere: the same bytes in one order."""

from contextlib import closing
from hashlib import blake2b
from itertools import islice

import numpy as np
import pytest
from images import ArraySource, encode, smooth, write_folder, write_tar

from dinojax.data.concat import Concat
from dinojax.data.folder import FolderSource
from dinojax.data.order import Order
from dinojax.data.pipeline import make_loader
from dinojax.data.tar import TarSource

STEPS = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tar, a folder and arrays."""
    root = tmp_path_factory.mktemp("parts")
    tar = {f"{c}/{i}.jpg": encode(smooth(20 + i, 30 + 9 * c)) for c in range(3) for i in range(7)}
    folder = {f"{i}.png": encode(smooth(9 + i, 16), "PNG") for i in range(10)}
    return Concat(
        [
            TarSource(write_tar(root / "images.tar", tar)),
            FolderSource(write_folder(root / "images", folder)),
            ArraySource(90),
        ]
    )


ORDER = Order(
    sizes=(21, 10, 90),
    global_batch=16,
    seed=1,
    weights=(0.2, 0.0, 0.8),
    homogeneous_part=1,
    homogeneous_share=0.25,
)


SLOTS = {
    1: [range(16)],
    2: [range(8), range(8, 16)],
    # As on a torus of hosts: no host's slots are next to each other.
    4: [(0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)],
}
"""Of each host, by their number."""


def run(source, *, hosts, workers, start, count):
    """A hash of (canvas, size, index) over all hosts, for each step."""
    parts = []
    for host in range(hosts):
        options = {"start_step": start, "num_workers": workers, "slots": SLOTS[hosts][host]}
        loader = make_loader(source, ORDER, canvas_px=32, **options)
        with closing(loader):
            parts.append(list(islice(loader, count)))
    hashes = []
    for step, batches in enumerate(zip(*parts, strict=True), start):
        assert {batch["step"] for batch in batches} == {step}
        place = np.argsort(np.concatenate(SLOTS[hosts]))
        names = ("canvas", "size", "index")
        joined = [np.concatenate([b[name] for b in batches])[place] for name in names]
        hashes.append(blake2b(b"".join(array.tobytes() for array in joined)).hexdigest())
    return hashes


@pytest.fixture(scope="module")
def expected(source):
    hashes = run(source, hosts=1, workers=0, start=0, count=STEPS)
    assert len(set(hashes)) == STEPS
    return hashes


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("hosts", "workers"),
    [(1, 0), (2, 0), (4, 0)] + [pytest.param(h, w, marks=slow) for h in (1, 2, 4) for w in (1, 4)],
)
@pytest.mark.parametrize("start", [0, 3, STEPS - 1])
def test_hosts_workers_and_resume_points_change_nothing(source, expected, hosts, workers, start):
    found = run(source, hosts=hosts, workers=workers, start=start, count=STEPS - start)
    assert found == expected[start:]


def test_resumed_on_other_hosts_and_workers_in_one_run(source, expected):
    """Three legs of one run, each on another cluster."""
    legs = [(1, 0, 0, 3), (4, 1, 3, 2), (2, 0, 5, 3)]
    found = [
        run(source, hosts=hosts, workers=workers, start=start, count=count)
        for hosts, workers, start, count in legs
    ]
    assert [line for leg in found for line in leg] == expected


def test_every_record_is_seen_once_per_pass(source):
    """What loaders hand out, not what the order promises: two hosts, three parts, by id."""
    loaders = [make_loader(source, ORDER, canvas_px=8, slots=slots) for slots in SLOTS[2]]
    steps = 30
    batches = zip(*(islice(loader, steps) for loader in loaders), strict=True)
    drawn = np.concatenate([np.concatenate([b["index"] for b in pair]) for pair in batches])
    for loader in loaders:
        loader.close()
    assert len(drawn) == steps * ORDER.global_batch
    first = 0
    for size, count in zip(ORDER.sizes, ORDER.counts(steps), strict=True):
        own = drawn[(drawn >= first) & (drawn < first + size)]
        assert len(own) == count > size
        times = np.bincount(own - first, minlength=size)
        assert times.min() == count // size and times.max() == -(-count // size)
        first += size
