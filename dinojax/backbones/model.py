"""A backbone with its parameters: images in, features out."""

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypedDict, overload

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh

from dinojax import mesh as meshes
from dinojax.backbones.given import check_images, places_of
from dinojax.backbones.opened import ImageFormat, Opened, fingerprint_of_params
from dinojax.mesh import gather, split_batch
from dinojax.models.attention import CLS_ATTENTION
from dinojax.models.features import Features
from dinojax.models.pixels import Pixels
from dinojax.models.presets import Backbone, layer_count
from dinojax.models.vit import VisionTransformer
from dinojax.precision import widen
from dinojax.typing import Array, Float, Params
from dinojax.views.colour import normalise

Images = Any
"""Arrays ``[B, H, W, C]``, uint8 or float32: `Model` says in words what is wrong with others."""


class FeatureMaps(TypedDict):
    """Of a batch of images, float32; a row of patches of an image is a row of `patches`."""

    cls: Float[Array, "B D"]
    registers: Float[Array, "B R D"]
    patches: Float[Array, "B h w D"]


_whole = jax.jit(gather)


class Model:
    """What `dinojax.load` returns.

    Attributes:
        name: what it was loaded by.
        backbone: the module.
        images: how images are normalised, and the side that suits the model.
        params: the parameters, split over `mesh`.
    """

    def __init__(
        self,
        name: str,
        backbone: Backbone | Pixels,
        images: ImageFormat,
        params: Params,
        mesh: Mesh,
    ):
        self.name, self.backbone, self.images = name, backbone, images
        self.params, self._mesh = params, mesh

    @classmethod
    def read(cls, opened: Opened, mesh: Mesh | None = None) -> "Model":
        """The model over all devices, or those of a mesh. Raises: as `Opened.read`."""
        mesh = mesh or meshes.make_mesh(1, -1)
        with jax.set_mesh(mesh):
            params = opened.read(mesh)
        return cls(opened.name, opened.backbone, opened.images, params, mesh)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the parameters, as of the checkpoint or file that they are from."""
        return fingerprint_of_params(self.params)

    @property
    def is_local(self) -> bool:
        """Whether it lies on devices of this process alone."""
        return not self._mesh.is_multi_process

    @property
    def stride(self) -> int:
        """Pixels between neighbouring patches; the sides of images are multiples of it."""
        return self.backbone.stride

    @cached_property
    def layers(self) -> int:
        """How many blocks `features` chooses from; of a ConvNeXt its stages."""
        return layer_count(self.backbone)

    @property
    def heads(self) -> int:
        """Of the attention; 0 where there is none."""
        return self.backbone.num_heads if isinstance(self.backbone, VisionTransformer) else 0

    def __repr__(self) -> str:
        kind = f"{type(self.backbone).__name__}, {self.layers} layers, stride {self.stride} px"
        return f"<dinojax model {self.name}: {kind}>"

    @overload
    def features(self, images: Images, layers: int | None = None) -> FeatureMaps: ...

    @overload
    def features(self, images: Images, layers: Sequence[int]) -> list[FeatureMaps]: ...

    def features(
        self, images: Images, layers: int | Sequence[int] | None = None
    ) -> FeatureMaps | list[FeatureMaps]:
        """CLS, registers and patches of images of any size that `stride` divides.

        Args:
            images: uint8 in 0..255, which are normalised here, or float32, taken as normalised.
            layers: blocks counted from 0, or from the end with -1 the last, in any order; of a
                ConvNeXt its stages. None: the last one.

        Returns:
            features after the final norm (of a ConvNeXt's earlier stages, which have none, without
            it): one set for None or a number, a list for several layers. A ConvNeXt has no
            registers, and the mean of its map is its CLS.

        Raises:
            ValueError: images of another kind or size, or a layer that there is not.
        """
        given = self._checked(images)
        if layers is None or isinstance(layers, int | np.integer):
            wanted = None if layers is None else self._layers([int(layers)])
            return self._run(given, wanted)[0]
        wanted = self._layers(layers)
        return self._run(given, wanted)

    def shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """Of the features of one image of this size, without computing them.

        Raises:
            ValueError: a size that `features` refuses.
        """
        size = (1, height, width, self.images.channels)
        image = self._checked(jax.ShapeDtypeStruct(size, np.uint8))
        with jax.set_mesh(self._mesh):
            (found,) = jax.eval_shape(
                lambda images: self._features(self.params, images, None), image
            )
        return {name: leaf.shape[1:] for name, leaf in found.items()}

    def cls_attention(self, images: Images, layer: int = -1) -> Float[Array, "B H h w"]:
        """What CLS attends to in one block, per head: the softmax's weights on the patches.

        They sum to 1 together with those on CLS itself and the registers.

        Raises:
            ValueError: as `features`; or a model without attention.
        """
        given, count = self._padded(self._checked(images))
        if not self.heads:
            raise ValueError(f"{self.name} has no attention; use a vision transformer")
        (wanted,) = self._layers([layer])
        with jax.set_mesh(self._mesh):
            return self._attention(self.params, given)[wanted, :count]

    def patch_norms(self, images: Images) -> Float[Array, "B h w"]:
        """Lengths of the last block's patch tokens before the final norm.

        Raises:
            ValueError: as `features`.
        """
        given, count = self._padded(self._checked(images))
        with jax.set_mesh(self._mesh):
            return self._norms(self.params, given)[:count]

    def with_weights(self, opened: Opened) -> "Model":
        """The same module with other parameters; what is compiled for this one serves both.

        Raises:
            ValueError: a backbone of another kind or normalisation.
        """
        if (opened.backbone, opened.images) != (self.backbone, self.images):
            raise ValueError(f"{opened.name} is of another model than {self.name}")
        with jax.set_mesh(self._mesh):
            params = opened.read(self._mesh)
        return self.with_params(params, opened.name)

    def with_params(self, params: Params, name: str) -> "Model":
        """The same with parameters that lie on the same mesh."""
        _ = self._features, self._attention, self._norms  # made now, so that both have them
        other = copy.copy(self)
        other.name, other.params = name, params
        vars(other).pop("fingerprint", None)
        return other

    def fetch(self, found: Array) -> np.ndarray:
        """On this host, also of what lies on the devices of other processes."""
        with jax.set_mesh(self._mesh):
            return np.asarray(_whole(found))

    def _run(self, images: Images, layers: tuple[int, ...] | None) -> list[FeatureMaps]:
        given, count = self._padded(images)
        with jax.set_mesh(self._mesh):
            padded = self._features(self.params, given, layers)
            found = [jax.tree.map(lambda leaf: leaf[:count], one) for one in padded]
        if layers is None:
            return found
        order = sorted(set(layers))
        return [found[order.index(layer)] for layer in layers]

    @cached_property
    def _features(self):
        @jax.jit(static_argnames="layers")
        def run(params: Params, images: Images, layers: tuple[int, ...] | None):
            x, backbone = self._normalised(images), self.backbone
            with backbone.precision.exact_products():
                if layers is None:
                    found = backbone.apply({"params": params}, x)
                else:
                    method = "intermediate"
                    found = backbone.apply({"params": params}, x, layers, method=method)
            return [as_maps(one, images.shape[1:3]) for one in found]  # type: ignore[union-attr]

        return run

    @cached_property
    def _attention(self):
        @jax.jit
        def run(params: Params, images: Images) -> Float[Array, "L B H h w"]:
            x, backbone = self._normalised(images), self.backbone
            assert isinstance(backbone, VisionTransformer)
            with backbone.precision.exact_products():
                _, found = backbone.apply({"params": params}, x, mutable=[CLS_ATTENTION])
            (weights,) = jax.tree.leaves(found[CLS_ATTENTION])
            patches = weights[..., 1 + backbone.n_storage_tokens :]
            return rearrange(
                patches, "L B H (h w) -> L B H h w", h=images.shape[1] // backbone.stride
            )

        return run

    @cached_property
    def _norms(self):
        @jax.jit
        def run(params: Params, images: Images) -> Float[Array, "B h w"]:
            x, backbone = self._normalised(images), self.backbone
            with backbone.precision.exact_products():
                found = backbone.apply({"params": params}, x)[0]  # type: ignore[index]
            prefix = found.prenorm.shape[2] - found.patches.shape[2]
            norms = jnp.linalg.norm(widen(found.prenorm[0, :, prefix:]), axis=-1)
            rows = images.shape[1] // backbone.stride
            return rearrange(norms, "B (h w) -> B h w", h=rows)

        return run

    def _padded(self, images: Images) -> tuple[Images, int]:
        """Rows for every device alike, and how many of them are images."""
        count = images.shape[0]
        missing = -count % self._mesh.size
        if not missing:
            return images, count
        return jnp.pad(jnp.asarray(images), ((0, missing), (0, 0), (0, 0), (0, 0))), count

    def _normalised(self, images: Images) -> Float[Array, "1 B H W C"]:
        x = jnp.asarray(images)
        if x.dtype == jnp.uint8:
            x = normalise(x, self.images.mean, self.images.std)
        return split_batch(x)[None]

    def _checked(self, images: Images) -> Images:
        check_images(images, self.images.channels, self.stride, self.name)
        return images

    def _layers(self, layers: Sequence[int]) -> tuple[int, ...]:
        return places_of(layers, self.layers, self.name)


def as_maps(found: Features, size: tuple[int, ...]) -> FeatureMaps:
    """Of a single group, patches as a grid of the images' proportions, at least float32.

    Args:
        size: (height, width) of the images, which every grid divides evenly.
    """
    patches = widen(found.patches[0])
    rows = round((patches.shape[1] * size[0] / size[1]) ** 0.5)
    return FeatureMaps(
        cls=widen(found.cls[0]),
        registers=widen(found.registers[0]),
        patches=rearrange(patches, "B (h w) D -> B h w D", h=rows),
    )
