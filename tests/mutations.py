"""Files of weights, damaged in every way that we could think of; all a function of the seed."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

Header = dict[str, Any]
Draw = np.random.Generator
NUMBERS = (-1, 0, 1, 2, 3, 2**31, 2**63, 2**64, 10**30, 1.5, True, None, "7", [], {})
TEXTS = ("", "a", "null", "{", "[]", "[1]", '{"student.arch": 3}', "0" * 16, "\udcff", "7", "-1")
DTYPES = ("F64", "F32", "F16", "BF16", "I8", "I32", "U8", "BOOL", "F8_E4M3", "f32", "", None, 3)


def split(data: bytes) -> tuple[Header, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: Header, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensors(header: Header) -> list[str]:
    return [name for name in header if name != "__metadata__"]


def pick(draw: Draw, values: Any) -> Any:
    values = list(values)
    return values[draw.integers(len(values))]


def packed(header: Header, data: bytes, names: list[str]) -> bytes:
    """Only the tensors `names`, as a file that is valid."""
    kept: Header = {"__metadata__": header.get("__metadata__", {})}
    parts, end = [], 0
    for name in sorted(names, key=lambda name: header[name]["data_offsets"]):
        start, stop = header[name]["data_offsets"]
        parts.append(data[start:stop])
        kept[name] = {**header[name], "data_offsets": [end, end + stop - start]}
        end += stop - start
    return join(kept, b"".join(parts))


def truncated(draw: Draw, data: bytes) -> bytes:
    return data[: draw.integers(len(data))]


def appended(draw: Draw, data: bytes) -> bytes:
    return data + draw.bytes(int(draw.integers(1, 99)))


def other_length(draw: Draw, data: bytes) -> bytes:
    length = int(pick(draw, (0, 1, 2**63, 2**64 - 1, len(data), draw.integers(len(data)))))
    return length.to_bytes(8, "little") + data[8:]


def flipped(draw: Draw, data: bytes) -> bytes:
    """One bit anywhere."""
    return _flip(draw, data, 0, len(data))


def flipped_in_header(draw: Draw, data: bytes) -> bytes:
    return _flip(draw, data, 8, 8 + int.from_bytes(data[:8], "little"))


def _flip(draw: Draw, data: bytes, start: int, end: int) -> bytes:
    place, changed = int(draw.integers(start, end)), bytearray(data)
    changed[place] ^= 1 << int(draw.integers(8))
    return bytes(changed)


def overwritten(draw: Draw, data: bytes) -> bytes:
    place, noise = int(draw.integers(len(data))), draw.bytes(int(draw.integers(1, 64)))
    return data[:place] + noise + data[place + len(noise) :]


def other_entry(draw: Draw, data: bytes) -> bytes:
    """Another dtype, shape or place of one tensor."""
    header, body = split(data)
    one = header[pick(draw, tensors(header))]
    key = pick(draw, one)
    if key == "dtype":
        one[key] = pick(draw, DTYPES)
    elif draw.integers(4) == 0:
        one[key] = pick(draw, (*NUMBERS, [0], [0, 0, 0, 0]))
    elif one[key]:
        one[key][draw.integers(len(one[key]))] = pick(draw, NUMBERS)
    return join(header, body)


def without_key(draw: Draw, data: bytes) -> bytes:
    header, body = split(data)
    one = header[pick(draw, tensors(header))]
    del one[pick(draw, one)]
    return join(header, body)


def turned(draw: Draw, data: bytes) -> bytes:
    """The shape of one tensor backwards, which of a square matrix is the same."""
    header, body = split(data)
    header[pick(draw, tensors(header))]["shape"].reverse()
    return join(header, body)


def transposed(draw: Draw, data: bytes) -> bytes:
    """A square matrix with its values transposed, which no shape tells."""
    header, body = split(data)
    square = [
        name
        for name in tensors(header)
        if len(shape := header[name]["shape"]) == 2 and shape[0] == shape[1] > 1
    ]
    if not square:
        return turned(draw, data)
    one = header[pick(draw, square)]
    start, end = one["data_offsets"]
    items = np.frombuffer(body[start:end], np.float32).reshape(one["shape"])
    return join(header, body[:start] + items.T.tobytes() + body[end:])


def swapped(draw: Draw, data: bytes) -> bytes:
    """Two tensors with each other's places."""
    header, body = split(data)
    one, other = (header[pick(draw, tensors(header))] for _ in range(2))
    key = "data_offsets"
    one[key], other[key] = other[key], one[key]
    return join(header, body)


def renamed(draw: Draw, data: bytes) -> bytes:
    header, body = split(data)
    name = pick(draw, tensors(header))
    others = (name + "x", name[:-1], name.replace(".", "/"), name.replace("0", "1"), "", "a/b")
    header[pick(draw, (*others, pick(draw, tensors(header))))] = header.pop(name)
    return join(header, body)


def dropped(draw: Draw, data: bytes) -> bytes:
    header, body = split(data)
    gone = pick(draw, tensors(header))
    return packed(header, body, [name for name in tensors(header) if name != gone])


def doubled(draw: Draw, data: bytes) -> bytes:
    """A name twice in the header."""
    header, body = split(data)
    name = pick(draw, tensors(header))
    text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    return len(text).to_bytes(8, "little") + text.encode() + body


def other_metadata(draw: Draw, data: bytes) -> bytes:
    header, body = split(data)
    said = header.setdefault("__metadata__", {})
    name = pick(draw, (*said, "recipe", "rgb_mean", "kept", "image_px"))
    said[name] = pick(draw, (*TEXTS, *NUMBERS))
    return join(header, body)


def scaled(draw: Draw, data: bytes) -> bytes:
    """A tensor with other values, whole otherwise."""
    header, body = split(data)
    start, end = header[pick(draw, tensors(header))]["data_offsets"]
    items = np.frombuffer(body[start:end], np.float32) * np.float32(1.5) + np.float32(1)
    return join(header, body[:start] + items.tobytes() + body[end:])


MUTATIONS: tuple[Callable[[Draw, bytes], bytes], ...] = (
    *(truncated, appended, other_length, flipped, flipped_in_header, overwritten, other_entry),
    *(other_entry, without_key, turned, transposed, swapped, renamed, dropped, doubled),
    *(other_metadata, scaled),
)


def mutated(seed: int, data: bytes) -> tuple[str, bytes]:
    """(what was done, the file): of the mutations in turn."""
    mutation = MUTATIONS[seed % len(MUTATIONS)]
    return mutation.__name__, mutation(np.random.default_rng(seed), data)
