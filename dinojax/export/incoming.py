"""Weights on their way in: every entry accounted for, then read part by part onto a mesh."""

import fnmatch
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from dinojax.export.audit import Audit, checksum
from dinojax.export.dinov2_names import official_name, plain_entries
from dinojax.export.names import BUFFERS, Leaf, entry_shapes, first, leaves_of, nest
from dinojax.export.packed import Shape
from dinojax.export.tensor_file import FLOATS
from dinojax.export.weights import Weights
from dinojax.trees import flatten
from dinojax.typing import Params

Fill = Callable[[str], np.ndarray]
"""From the path of a leaf to values for what is missing of it."""


class Incoming:
    """What a file has, compared with what a model needs; nothing is read yet.

    Attributes:
        missing: official names of what the model has and the file lacks.
        unexpected: names in the file that the model has no place for, constants excepted.

    Args:
        like: structure and shapes of the model's parameters.

    Raises:
        ValueError: an entry of another shape or of a dtype that is none of weights.
    """

    def __init__(self, weights: Weights, like: Params):
        self.weights, self._leaves = weights, leaves_of(like)
        self._shapes, self._entries = entry_shapes(like), plain_entries(weights.shapes)
        self._dinov2 = "pos_embed" in self._shapes
        absent = self._shapes.keys() - self._entries.keys()
        self._zeros = {n for n in absent if weights.zeros and re.fullmatch(weights.zeros, n)}
        self.missing = self._official(absent - self._zeros)
        left = self._entries.keys() - self._shapes.keys()
        self.unexpected = sorted({self._entries[n].name for n in left if not BUFFERS.match(n)})
        for name in self._shapes.keys() & self._entries.keys():
            self._check(name)

    def check(self, missing: Collection[str] = (), unexpected: Collection[str] = ()) -> None:
        """Whether all is there and nothing left over, but for what is allowed.

        Args:
            missing: official names that may be missing, or patterns such as ``local_cls_norm.*``.
            unexpected: likewise names that may be left over.

        Raises:
            ValueError: there is more; names the first few.
        """
        lacks = [name for name in self.missing if not fits_any(missing, name)]
        left = [name for name in self.unexpected if not fits_any(unexpected, name)]
        faults = [f"it has no entry {first(lacks)}"] if lacks else []
        if left:
            faults.append(f"it has {len(left)} entries the model lacks: {first(left)}")
        if faults:
            raise ValueError("; ".join(faults))

    def audit(self) -> Audit:
        """What becomes of every entry. Reads the file once, for the checksum."""
        loaded = self._shapes.keys() & self._entries.keys()
        reshaped = {
            name for name in loaded if self.weights.entries.is_reshaped(self._entries[name].name)
        }
        return Audit(
            loaded=self._official(loaded | self._zeros),
            reshaped=self._official(reshaped | self._zeros),
            missing=self.missing,
            unexpected=self.unexpected,
            checksum=checksum(_Official(self)),
        )

    def place(self, wanted: Params, fill: Fill | None = None) -> Params:
        """The parameters on the shardings and in the dtypes of `wanted`.

        Leaf by leaf and device by device, each device's part alone: beside the arrays on the mesh,
        this process holds one part of one leaf.

        Args:
            wanted: `jax.ShapeDtypeStruct` with shardings.
            fill: for what is missing.

        Raises:
            ValueError: a dtype of the file that has values which the wanted one has not.
        """
        leaves, found = flatten(wanted), {}
        for leaf in self._leaves:
            like = leaves[leaf.path]
            for name in leaf.names:
                self._check_dtype(name, like.dtype)
            absent = [name for name in leaf.names if name in self._absent]
            given = fill(leaf.path) if fill is not None and absent else None
            found[leaf.path] = self._on_devices(leaf, like, given)
            self.weights.file.release()
        return nest(found)

    def entry(self, name: str) -> np.ndarray:
        """Of an official name that the file has, by DINOv3's system."""
        if name in self._zeros:
            return np.zeros(self._shapes[name], np.float32)
        one = self._entries[name]
        value = one.of(self.weights[one.name])
        if value.shape != self._shapes[name]:
            raise ValueError(f"{name!r} has shape {value.shape}, not {self._shapes[name]}")
        return value

    @property
    def _absent(self) -> set[str]:
        return self._shapes.keys() - self._entries.keys() - self._zeros

    def _on_devices(
        self, leaf: Leaf, like: jax.ShapeDtypeStruct, given: np.ndarray | None
    ) -> jax.Array:
        values = {} if given is None else leaf.entries(given)

        def take(name: str) -> np.ndarray:
            return values[name] if name in self._absent else self.entry(name)

        sharding: Any = like.sharding
        devices: dict[Any, list[Any]] = {}
        for device, index in sharding.addressable_devices_indices_map(leaf.shape).items():
            plain = tuple(
                axis.indices(size)[:2] for axis, size in zip(index, leaf.shape, strict=True)
            )
            devices.setdefault(plain, []).append(device)
        parts = []
        for plain, same in devices.items():
            part = leaf.read(take, tuple(slice(*axis) for axis in plain), like.dtype)
            parts += [jax.device_put(part, device) for device in same]
            jax.block_until_ready(parts[-len(same) :])
        return jax.make_array_from_single_device_arrays(leaf.shape, sharding, parts)

    def _check(self, name: str) -> None:
        one = self._entries[name]
        found, whole = self.weights.shapes[one.name], self._whole(name)
        if found != whole:
            raise ValueError(f"{one.name!r} has shape {found}, not the model's {whole}")
        kind = self.weights.dtype(one.name)
        if kind not in FLOATS:
            raise ValueError(
                f"{one.name!r} is {kind}, not floating point; give the weights before they were "
                "quantised"
            )

    def _check_dtype(self, name: str, wanted: Any) -> None:
        if name in self._entries:
            kind = self.weights.dtype(self._entries[name].name)
            if not np.can_cast(FLOATS[kind], wanted, "safe"):
                raise ValueError(
                    f"{name!r} is {kind}, which {np.dtype(wanted).name} would round; convert the "
                    "file first"
                )

    def _whole(self, name: str) -> Shape:
        """What the file's entry should have."""
        shape = self._shapes[name]
        packed = self._entries[name].half is not None
        return (2 * shape[0], *shape[1:]) if packed else shape

    def _official(self, names: Collection[str]) -> list[str]:
        return sorted({official_name(name) if self._dinov2 else name for name in names})


class _Official(Mapping[str, np.ndarray]):
    """What is loaded, in float32 under the official names of its own system, for the checksum."""

    def __init__(self, incoming: Incoming):
        self._incoming, self._parts = incoming, {}
        shapes = incoming._shapes
        for name in sorted(shapes.keys() - incoming._absent):  # w1 before w2
            official = official_name(name) if incoming._dinov2 else name
            self._parts.setdefault(official, []).append(name)

    def __getitem__(self, name: str) -> np.ndarray:
        parts = [self._incoming.entry(part) for part in self._parts[name]]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return whole.astype(np.promote_types(whole.dtype, np.float32), copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def fits_any(patterns: Collection[str], name: str) -> bool:
    """Whether a name is one of these, or fits one as a pattern."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
