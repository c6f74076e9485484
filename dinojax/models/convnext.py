"""ConvNeXt (arXiv:2201.03545) as DINOv3 distils it (arXiv:2508.10104, table 17): four stages.

It has no CLS token, no registers and no mask token. The mean of the last map takes the place of
CLS, and the map's pixels, 32 px apart in the image, that of patches.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from dinojax.kernels.resize import resize_grid
from dinojax.models.convnext_block import ConvNeXtBlock, Downsample, LayerGains, Maps, Streams
from dinojax.models.dense import INIT_STD
from dinojax.models.embed import patch_grid
from dinojax.models.features import CropDraws, Features
from dinojax.models.norm import NORM_LAYERS
from dinojax.models.remat import REMAT_POLICIES
from dinojax.precision import Precision, widen
from dinojax.typing import Array, Bool, Float

STRIDES = (4, 2, 2, 2)
"""Pixels of the stage before in one of each stage."""


class ConvNeXt(nn.Module):
    """A backbone like `VisionTransformer`, with parameters stacked over the depth of each stage.

    Images are ``[G, b, h, w, C]``, each side at least 32 px.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    precision: Precision
    patch_size: int | None = None
    """Of the grid that the maps of `intermediate` are resized to; None: each has its own."""
    layerscale: float | None = 1e-6
    init_std: float = INIT_STD
    remat: str = "none"
    scan_unroll: int = 1

    @property
    def embed_dim(self) -> int:
        return self.dims[-1]

    @property
    def depth(self) -> int:
        """Layers of all stages, which random draws are made for."""
        return sum(self.depths)

    @property
    def stride(self) -> int:
        """Pixels between neighbouring patch tokens."""
        return 32

    @property
    def tensor_sizes(self) -> dict[str, int]:
        """What a split over the mesh's tensor axis has to divide, by name."""
        return {f"four times dims[{i}]": 4 * dim for i, dim in enumerate(self.dims)}

    def setup(self):
        if len(self.depths) != len(STRIDES) or len(self.dims) != len(STRIDES):
            raise ValueError(
                f"depths={self.depths} and dims={self.dims} must have {len(STRIDES)} entries each, "
                "as (3, 3, 9, 3) and (96, 192, 384, 768)"
            )
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f"remat={self.remat!r} is unknown; use one of {list(REMAT_POLICIES)}")
        self.downsample = [
            Downsample(dim, stride, stage == 0, self.init_std, self.precision)
            for stage, (dim, stride) in enumerate(zip(self.dims, STRIDES, strict=True))
        ]
        self.stage = [
            ConvNeXtBlock(self.layerscale, self.init_std, self.precision) for _ in STRIDES
        ]
        self.norm = NORM_LAYERS["layernorm"](self.precision)

    def __call__(
        self,
        global_crops: Float[Array, "G b h w C"],
        local_crops: Float[Array, "G e s t C"] | None = None,
        *,
        masks: Bool[Array, "G b P"] | None = None,
        draws: tuple[CropDraws | None, ...] = (None, None),
    ) -> tuple[Features, ...]:
        """Features of the global crops and, if given, of the local crops.

        `prenorm` holds the patches alone.

        Raises:
            ValueError: `masks` are given.
        """
        if masks is not None:
            raise ValueError(
                "a ConvNeXt has no mask token, so it cannot be trained on masked crops; distil it "
                "from a teacher"
            )
        crops = [global_crops] if local_crops is None else [global_crops, local_crops]
        groups = global_crops.shape[0]
        maps = self._stages(crops, draws)[-1]
        return tuple(self._features(x, x, groups, is_last=True) for x in maps)

    def intermediate(
        self, images: Float[Array, "G b h w C"], layers: Sequence[int], *, norm: bool = True
    ) -> list[Features]:
        """Features after the given 0-based stages, which `layers` stands for, in ascending order.

        CLS is the mean of a stage's own map. Patches are that map, resized to the grid of
        `patch_size` if the model has one. With `norm` the final norm is applied to the last stage;
        the others have none.

        Raises:
            ValueError: an index outside 0..3.
        """
        wanted = sorted(set(layers))
        if not wanted or wanted[0] < 0 or wanted[-1] >= len(STRIDES):
            raise ValueError(f"layers={list(layers)} must be non-empty, within 0..3: the stages")
        groups = images.shape[0]
        out = []
        for stage, (x,) in enumerate(self._stages([images], (None,))):
            if stage in wanted:
                resized = x
                if self.patch_size is not None:
                    grid = patch_grid(images.shape[2], images.shape[3], self.patch_size)
                    wide = resize_grid(widen(x), grid, method="bilinear", antialias=True)
                    resized = wide.astype(x.dtype)
                is_last = norm and stage == len(STRIDES) - 1
                out.append(self._features(x, resized, groups, is_last=is_last))
        return out

    def _stages(self, crops: Sequence[Array], draws: tuple[CropDraws | None, ...]) -> list[Streams]:
        """The maps of every crop size after each stage."""
        for images in crops:
            patch_grid(images.shape[2], images.shape[3], self.stride)  # refuses small images
        maps = tuple(rearrange(images, "G b h w C -> (G b) h w C") for images in crops)
        gains = [None if given is None else given.gains for given in draws[: len(crops)]]
        flat = [None if g is None else rearrange(g, "L G b -> L (G b)") for g in gains]
        out, start = [], 0
        for downsample, block, depth in zip(self.downsample, self.stage, self.depths, strict=True):
            maps = tuple(downsample(x) for x in maps)
            end = start + depth
            here = tuple(LayerGains(None if g is None else g[start:end]) for g in flat)
            maps = self._layers(block, maps, here, depth)
            out.append(maps)
            start = end
        return out

    def _layers(
        self,
        block: nn.Module,
        maps: Streams,
        gains: tuple[LayerGains, ...],
        depth: int,
    ) -> Streams:
        def layer(block, maps, gains):
            return block(maps, gains), None

        policy = REMAT_POLICIES[self.remat]
        if policy is not None:
            layer = nn.remat(layer, prevent_cse=False, policy=policy)
        scan = nn.scan(
            layer,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=0,  # type: ignore[arg-type]
            length=depth,
            unroll=min(self.scan_unroll, depth),
        )
        return scan(block, maps, gains)[0]

    def _features(
        self, x: Maps, resized: Float[Array, "n r c C"], groups: int, *, is_last: bool
    ) -> Features:
        """Of a map; its patches are those of `resized`."""
        pooled = widen(x).mean(axis=(1, 2)).astype(x.dtype)
        cls = rearrange(pooled, "(G b) D -> G b D", G=groups)
        patches = rearrange(resized, "(G b) h w D -> G b (h w) D", G=groups)
        none = jnp.zeros((*cls.shape[:2], 0, cls.shape[2]), cls.dtype)
        if not is_last:
            return Features(cls, none, patches, patches)
        return Features(self.norm(cls), none, self.norm(patches), patches)
