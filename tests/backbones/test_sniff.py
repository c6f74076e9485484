"""Models told apart by the names and shapes of their entries."""

import numpy as np
import pytest

from dinojax.backbones.sniff import presets_of
from dinojax.export.names import entry_shapes
from dinojax.export.official_weights import OfficialWeights
from dinojax.export.weights import Weights
from dinojax.models.presets import PRESETS, backbone_shapes
from dinojax.precision import get_precision


class Header:
    """A file of which only the header is looked at."""

    path, paths, metadata = "x.safetensors", ("x.safetensors",), {}

    def __init__(self, shapes):
        self.shapes = shapes
        self.dtypes = dict.fromkeys(shapes, "F32")

    def __getitem__(self, name) -> np.ndarray:
        return np.broadcast_to(np.float32(0), self.shapes[name])

    def release(self) -> None:
        pass


def weights(arch: str, layout: str = "official") -> Weights:
    preset = PRESETS[arch].build(get_precision("float32"))
    file = Header(entry_shapes(backbone_shapes(preset, 3)))
    return Weights(file, layout, OfficialWeights(file))


@pytest.mark.parametrize("arch", ["vits16", "vits16plus", "vits14_reg", "vit7b16", "convnext_tiny"])
def test_presets(arch):
    assert presets_of(weights(arch), 3) == [arch]


def test_what_may_be_missing_or_left_over():
    """By pattern; others' layouts leave out what only training has, without a word."""
    known = weights("vit7b16")
    for name in ("local_cls_norm.weight", "local_cls_norm.bias"):
        del known.shapes[name]
    assert presets_of(known, 3) == []
    assert presets_of(known, 3, missing=["local_cls_norm.*"]) == ["vit7b16"]
    assert presets_of(Weights(known.file, "huggingface", known.entries), 3) == ["vit7b16"]
    known = weights("vits16")
    known.shapes["head.weight"] = (10, 384)
    assert presets_of(known, 3) == []
    assert presets_of(known, 3, unexpected=["head.*"]) == ["vits16"]
    assert presets_of(weights("vits16"), 4) == []
