"""A backbone that is known and not yet read: what evaluation, export and the API begin with."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import jax
from jax.sharding import Mesh

from dinojax import mesh as meshes
from dinojax.models.pixels import Pixels
from dinojax.models.presets import Backbone, backbone_shapes
from dinojax.runtime.checkpoint import abstract
from dinojax.runtime.digests import digests
from dinojax.runtime.fingerprints import hash_text
from dinojax.typing import Params

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGE_PX = 224
"""Side of images where nothing else is known: a multiple of 14, 16 and 32."""


@dataclass(frozen=True)
class ImageFormat:
    """What images a backbone was trained on, in the words of ``crops``."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    """Of pixels in 0..1, per channel; there are as many channels."""
    std: tuple[float, ...] = IMAGENET_STD
    image_px: int = IMAGE_PX
    """Side to evaluate at unless another is asked for."""

    @property
    def channels(self) -> int:
        return len(self.mean)


@dataclass(frozen=True)
class Opened(abc.ABC):
    """A backbone by the name under which it was asked for.

    Attributes:
        name: for people, as it was given.
        backbone: the module, called like `dinojax.models.vit.VisionTransformer`.
        images: how they are normalised, and their default side.
    """

    name: str
    backbone: Backbone | Pixels
    images: ImageFormat = field(default=ImageFormat(), kw_only=True)

    @abc.abstractmethod
    def read(self, mesh: Mesh) -> Params:
        """The parameters, split over the mesh as in training. All processes make the same call.

        Raises:
            FileNotFoundError: they are gone.
            ValueError: they are of another model than the module.
            dinojax.runtime.errors.CheckpointError: a checkpoint is damaged.
        """

    def layout(self, mesh: Mesh) -> Params:
        """Shapes, dtypes and shardings of the parameters."""
        if isinstance(self.backbone, Pixels):
            return {}
        shapes = backbone_shapes(self.backbone, self.images.channels)
        return abstract(shapes, meshes.shardings(mesh, shapes))

    @property
    def arch(self) -> str:
        """The preset, or what stands for it."""
        return self.name

    @property
    def origin(self) -> Mapping[str, str]:
        """What else is known of where the weights come from, for a file's metadata."""
        return {}

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the parameters: the same for the same values, wherever they lie."""
        mesh = meshes.make_mesh(1, -1)
        with jax.set_mesh(mesh):
            return fingerprint_of_params(self.read(mesh))


def fingerprint_of(found: Mapping[str, str]) -> str:
    """Of a backbone's digests by path (`dinojax.runtime.digests`)."""
    return hash_text("\n".join(sorted(f"{name} {digest}" for name, digest in found.items())))


def fingerprint_of_params(params: Params) -> str:
    """The same of the parameters themselves."""
    return fingerprint_of(digests(params) if params else {})
