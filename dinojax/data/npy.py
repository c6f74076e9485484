"""NPY files, NumPy's own format, from memory and without a copy."""

import io
from collections.abc import Callable

import numpy as np
from numpy.lib import format as npy_format

MAGIC = npy_format.MAGIC_PREFIX
READ_HEADER = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


def read_npy(data: bytes, check_size: Callable[[int, int, int], None]) -> np.ndarray:
    """The array, a view of `data`; `check_size(height, width, channels)` sees its header first.

    Objects are never unpickled.

    Raises:
        ValueError: no array of numbers, or fewer bytes than its header promises.
    """
    stream = io.BytesIO(data)
    version = npy_format.read_magic(stream)
    if version not in READ_HEADER:
        raise ValueError(f"NPY version {version} is not for images; save it with numpy.save")
    shape, fortran_order, dtype = READ_HEADER[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects; store uint8 or uint16")
    if len(shape) in (2, 3):
        check_size(shape[0], shape[1], shape[2] if len(shape) == 3 else 1)
    order = "F" if fortran_order else "C"
    try:
        return np.ndarray(shape, dtype, data, stream.tell(), order=order)
    except TypeError as error:  # "buffer is too small for requested array"
        raise ValueError("the file is truncated") from error
