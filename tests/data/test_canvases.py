"""Memory that is used again, and never while somebody can still see it."""

import pickle

import jax
import numpy as np
import pytest

from dinojax.data.canvases import IDLE, CanvasMemory

SHAPE = (2, 8, 8, 3)


def address(canvases: np.ndarray) -> int:
    return canvases.ctypes.data


def test_memory_comes_back_with_the_last_reference():
    memory = CanvasMemory()
    first = memory.take(SHAPE)
    assert first.shape == SHAPE and first.dtype == np.uint8 and first.flags.writeable
    where = address(first)
    del first
    assert address(memory.take((4, 4, 8, 3))) == where  # of the same size, in another shape


@pytest.mark.parametrize(
    "hold",
    [
        lambda canvases: canvases[1, :3],
        lambda canvases: canvases.reshape(-1)[5:].view(np.int8),
        memoryview,
        lambda canvases: np.from_dlpack(canvases),
        jax.device_put,
    ],
    ids=["slice", "view", "buffer", "dlpack", "device"],
)
def test_what_shares_the_memory_keeps_it(hold):
    memory = CanvasMemory()
    canvases = memory.take((64, 8, 8, 3))
    canvases[:] = np.arange(canvases.size).reshape(canvases.shape) % 256
    expected, held = canvases.copy(), hold(canvases)
    before = np.array(held).tobytes()
    del canvases
    for _ in range(3):
        memory.take(expected.shape)[:] = 0
    assert np.array(held).tobytes() == before


def test_a_bounded_number_is_kept():
    memory = CanvasMemory()
    held = [memory.take(SHAPE) for _ in range(IDLE + 3)]
    assert len({address(canvases) for canvases in held}) == len(held)
    del held
    again = [memory.take(SHAPE) for _ in range(IDLE + 3)]
    assert sum(len(kept) for kept in memory._idle.values()) == 0
    del again
    assert sum(len(kept) for kept in memory._idle.values()) == IDLE


def test_a_copy_for_a_worker_starts_empty():
    memory = CanvasMemory()
    memory.take((64, 64, 64, 3))
    assert len(pickle.dumps(memory)) < 1000
    assert pickle.loads(pickle.dumps(memory)).take(SHAPE).shape == SHAPE
