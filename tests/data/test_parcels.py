"""Batches that cross a process boundary."""

import gc
import os
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np

from dinojax.data.parcels import ALIGNMENT, Parcel


def send(batch):
    return pickle.loads(bytes(ForkingPickler.dumps(Parcel(batch))))


def test_arrives_as_it_was():
    rng = np.random.default_rng(0)
    batch = {
        "canvas": rng.integers(0, 256, (3, 5, 7, 3), np.uint8),
        "size": np.arange(6, dtype=np.int32).reshape(3, 2),
        "empty": np.zeros((0, 2), np.float32),
        "turned": np.asfortranarray(rng.normal(size=(4, 3))),
        "step": 41237,
        "problems": ("a", None),
    }
    arrived = send(batch).batch
    assert arrived.keys() == batch.keys()
    for name, value in batch.items():
        assert type(arrived[name]) is type(value)
        np.testing.assert_array_equal(arrived[name], value)
    for name in ("canvas", "size", "turned"):
        assert arrived[name].ctypes.data % ALIGNMENT == 0
        assert arrived[name].flags.writeable
        assert arrived[name].dtype == batch[name].dtype


def test_the_pickle_holds_no_pixels():
    assert len(bytes(ForkingPickler.dumps(Parcel(np.zeros((8, 512, 512, 3), np.uint8))))) < 1000


def test_memory_goes_with_the_arrays():
    """The last array's end closes the file: nothing is named, so nothing can be left behind."""
    send(np.zeros(8))  # starts the thread that hands descriptors over
    before = sorted(os.listdir("/dev/fd"))
    for _ in range(20):
        parcel = send({"canvas": np.zeros(10**6, np.uint8)})
        assert parcel.batch["canvas"].sum() == 0
        del parcel
    gc.collect()
    assert len(os.listdir("/dev/fd")) <= len(before)
