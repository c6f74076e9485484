"""Writing a ``.safetensors`` file: tensor after tensor, and equal contents are equal bytes.

The package's own writer copies all tensors first and puts metadata in another order each time; a
file that is known by its hash cannot have that. Format:
https://github.com/huggingface/safetensors#format
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dinojax.runtime.atomic import replacing

DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
ALIGNMENT = 8


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Whole or not at all, whenever the process dies.

    Raises:
        ValueError: a dtype that weights do not have.
    """
    entries, end = {}, 0
    for name, tensor in tensors.items():
        if tensor.dtype.name not in DTYPES:
            raise ValueError(f"tensor {name!r} is {tensor.dtype.name}; use one of {list(DTYPES)}")
        start, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": DTYPES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    header = json.dumps({"__metadata__": dict(metadata), **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    with replacing(Path(path)) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for tensor in tensors.values():
            file.write(tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes())
