"""The bijection between our parameters and the state dicts of the PyTorch reference.

Only names and layouts change, never values: linear weights are ``[out, in]`` there and
``[in, *out]`` here, convolutions ``[D, C, p, p]`` there and ``[p, p, C, D]`` here, and the blocks
that the reference numbers are stacked along a leading layer axis here. Names are DINOv3's, or for
models of DINOv2 its own (`dinov2_names`).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dinojax.export.dinov2_names import is_dinov2, plain_entries, to_dinov2
from dinojax.trees import flatten
from dinojax.typing import Params

Shape = tuple[int, ...]


class Rule(NamedTuple):
    """How one of our leaves (path regex) is called and laid out in the reference."""

    pattern: str
    name: str
    to_torch: Callable[[np.ndarray], np.ndarray]
    from_torch: Callable[[np.ndarray, Shape], np.ndarray]


def _reshape(x: np.ndarray, shape: Shape) -> np.ndarray:
    return x.reshape(shape)


def _linear_to_torch(kernel: np.ndarray) -> np.ndarray:
    return kernel.reshape(kernel.shape[0], -1).T


def _linear_from_torch(weight: np.ndarray, shape: Shape) -> np.ndarray:
    return weight.T.reshape(shape)


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1)


def _conv_to_torch(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(3, 2, 0, 1)


def _conv_from_torch(weight: np.ndarray, shape: Shape) -> np.ndarray:
    return weight.transpose(2, 3, 1, 0)


RULES = (
    Rule(r"embed/cls_token", "cls_token", lambda x: x[None], _reshape),
    Rule(r"embed/pos_embed", "pos_embed", lambda x: x[None], _reshape),
    Rule(r"embed/storage_tokens", "storage_tokens", lambda x: x[None], _reshape),
    Rule(r"embed/mask_token", "mask_token", lambda x: x[None], _reshape),
    Rule(r"embed/patch_embed/kernel", "patch_embed.proj.weight", _conv_to_torch, _conv_from_torch),
    Rule(r"embed/patch_embed/bias", "patch_embed.proj.bias", _flat, _reshape),
    # ConvNeXt's stem is a convolution and a norm, its later downsampling a norm and a convolution.
    Rule(
        r"downsample_0/conv/kernel",
        "downsample_layers.0.0.weight",
        _conv_to_torch,
        _conv_from_torch,
    ),
    Rule(r"downsample_0/conv/bias", "downsample_layers.0.0.bias", _flat, _reshape),
    Rule(r"downsample_0/norm/scale", "downsample_layers.0.1.weight", _flat, _reshape),
    Rule(r"downsample_0/norm/bias", "downsample_layers.0.1.bias", _flat, _reshape),
    Rule(
        r"downsample_(\d)/conv/kernel",
        r"downsample_layers.\1.1.weight",
        _conv_to_torch,
        _conv_from_torch,
    ),
    Rule(r"downsample_(\d)/conv/bias", r"downsample_layers.\1.1.bias", _flat, _reshape),
    Rule(r"downsample_(\d)/norm/scale", r"downsample_layers.\1.0.weight", _flat, _reshape),
    Rule(r"downsample_(\d)/norm/bias", r"downsample_layers.\1.0.bias", _flat, _reshape),
    Rule(r"dwconv/kernel", "dwconv.weight", _conv_to_torch, _conv_from_torch),
    Rule(r"ls/gamma", "gamma", _flat, _reshape),
    Rule(r"(.*norm\d?)/scale", r"\1.weight", _flat, _reshape),
    Rule(r"mlp_(\d+)/(kernel)", r"mlp.#\1.weight", _linear_to_torch, _linear_from_torch),
    Rule(r"mlp_(\d+)/(bias)", r"mlp.#\1.bias", _flat, _reshape),
    Rule(r"last_layer", "last_layer.weight", _linear_to_torch, _linear_from_torch),
    Rule(r"last_layer_gain", "last_layer.weight_g", lambda x: x[:, None], _reshape),
    Rule(r"(.*)/kernel", r"\1.weight", _linear_to_torch, _linear_from_torch),
    Rule(r"(.*)/(bias|gamma)", r"\1.\2", _flat, _reshape),
)

BUFFERS = re.compile(r"(^|.*\.)(rope_embed\.periods|attn\.qkv\.bias_mask|norms\.3\.\w+)$")
"""Entries of a reference state dict that are constants, not parameters, or ConvNeXt's final norm
under a second name."""

STACKED = re.compile(r"(blocks|stage_(\d))/(.*)")
"""Our paths whose leaves have a layer axis."""
MAX_LAYERS = 1000
"""That a file may say a model has."""
SHOWN = 5


def _rule_for(path: str) -> tuple[Rule, str]:
    for rule in RULES:
        if match := re.fullmatch(rule.pattern, path):
            return rule, match.expand(rule.name).replace("/", ".")
    raise ValueError(f"parameter {path!r} has no counterpart in the reference's state dict")


def _torch_name(path: str, head_layers: int) -> tuple[Rule, str]:
    """Rule and reference name of our unstacked path."""
    rule, name = _rule_for(path)
    # nn.Sequential interleaves activations: layers are 0, 2, 4 ...; a single layer has no index.
    if "#" in name:
        index = int(name.split("#")[1].split(".")[0])
        name = name.replace(f".#{index}", "" if head_layers == 1 else f".{2 * index}")
    return rule, name


class Leaf(NamedTuple):
    """One of our leaves, and where the reference has it.

    Attributes:
        path: ours.
        shape: ours, with the layer axis.
        stacked: whether there is a layer axis.
        names: of its entries there, by layer, or of the only one.
        rule: how an entry is laid out.
    """

    path: str
    shape: Shape
    stacked: bool
    names: tuple[str, ...]
    rule: Rule

    @property
    def layer_shape(self) -> Shape:
        """Of what one entry holds, as it is here."""
        return self.shape[1:] if self.stacked else self.shape

    @property
    def entry_shape(self) -> Shape:
        """Of each entry there."""
        # Of a scalar that takes the shape without the memory.
        return self.rule.to_torch(np.broadcast_to(np.zeros(()), self.layer_shape)).shape

    def entries(self, value: np.ndarray) -> dict[str, np.ndarray]:
        """Our value as entries: views of it where the layout allows."""
        layers = value if self.stacked else [value]
        return {
            name: self.rule.to_torch(layer) for name, layer in zip(self.names, layers, strict=True)
        }

    def read(
        self, take: Callable[[str], np.ndarray], index: tuple[slice, ...], dtype: Any
    ) -> np.ndarray:
        """A part of our value, ``value[index]``, from entries that are read when they are needed.

        Of entries that are views, as of a mapped file, nothing but this part is copied.
        """
        if not self.stacked:
            return self._layer(take(self.names[0]))[index].astype(dtype, order="C")
        layers, *rest = index
        names = self.names[layers]
        shape = np.broadcast_to(np.zeros(()), self.layer_shape)[tuple(rest)].shape
        part = np.empty((len(names), *shape), dtype)
        for row, name in enumerate(names):
            part[row] = self._layer(take(name))[tuple(rest)]
        return part

    def _layer(self, entry: np.ndarray) -> np.ndarray:
        return self.rule.from_torch(entry, self.layer_shape)


def leaves_of(like: Params) -> list[Leaf]:
    """Every leaf of a backbone or head, of which shapes are enough.

    Raises:
        ValueError: the reference has nothing like it.
    """
    leaves = flatten(like)
    head_layers = _head_layers(leaves)
    return [_leaf(path, tuple(leaf.shape), head_layers) for path, leaf in leaves.items()]


def _leaf(path: str, shape: Shape, head_layers: int) -> Leaf:
    match = STACKED.fullmatch(path)
    if match is None:
        rule, name = _torch_name(path, head_layers)
        return Leaf(path, shape, False, (name,), rule)
    rule, name = _torch_name(match[3], 0)
    if not shape or shape[0] > MAX_LAYERS:
        raise ValueError(f"parameter {path!r} of shape {shape} has no axis of layers")
    prefix = "blocks" if match[2] is None else f"stages.{match[2]}"
    names = tuple(f"{prefix}.{layer}.{name}" for layer in range(shape[0]))
    return Leaf(path, shape, True, names, rule)


def nest(leaves: Mapping[str, Any]) -> Params:
    """Nested dicts from leaves by path: the inverse of `trees.flatten` for dicts."""
    tree: Params = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def _head_layers(paths: Mapping[str, Any]) -> int:
    return sum(bool(re.fullmatch(r"mlp_\d+/kernel", path)) for path in paths)


def to_torch(params: Params) -> dict[str, np.ndarray]:
    """Reference state dict (parameters only) of one submodule: a backbone or a head."""
    values, state = flatten(params), {}
    for leaf in leaves_of(params):
        for name, value in leaf.entries(np.asarray(values[leaf.path])).items():
            state[name] = np.ascontiguousarray(value)
    return to_dinov2(state) if is_dinov2(state) else state


def entry_shapes(like: Params) -> dict[str, Shape]:
    """What `from_torch` reads for `like`, by DINOv3's names."""
    return {name: leaf.entry_shape for leaf in leaves_of(like) for name in leaf.names}


def from_torch(state: Mapping[str, np.ndarray], like: Params) -> Params:
    """Our parameters from a state dict of either system; `like` gives structure and shapes.

    Of files use `dinojax.export.incoming`, which tells what became of every entry.

    Raises:
        ValueError: an entry is missing, left over, or has another shape; names the first few.
    """
    entries, shapes = plain_entries(state), entry_shapes(like)
    missing = sorted(shapes.keys() - entries.keys())
    left = sorted(name for name in entries.keys() - shapes.keys() if not BUFFERS.match(name))
    faults = [f"state dict has no entry {first(missing)}"] if missing else []
    if left:
        faults.append(f"state dict has {len(left)} entries the model lacks: {first(left)}")
    if faults:
        raise ValueError("; ".join(faults))

    def take(name: str) -> np.ndarray:
        value = entries[name].of(np.asarray(state[entries[name].name]))
        if value.shape != shapes[name]:
            raise ValueError(f"{name!r} has shape {value.shape}, not the model's {shapes[name]}")
        return value

    out = {}
    for leaf in leaves_of(like):
        whole = (slice(None),) * len(leaf.shape)
        dtype = np.asarray(state[entries[leaf.names[0]].name]).dtype
        out[leaf.path] = leaf.read(take, whole, dtype)
    return nest(out)


def first(names: list[str]) -> str:
    """The first few, for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(map(repr, names[:SHOWN]))}{more}"
