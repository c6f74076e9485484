"""The vision transformer of DINOv3 (arXiv:2508.10104, sec. 3.1) and DINOv2: a scan over depth.

They differ in how positions enter: RoPE in every layer, or a learned table added to the tokens.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from dinojax.kernels.rope import CoordinateDraws, RopeTables, rope_periods, rope_tables
from dinojax.models.attention import CLS_ATTENTION, Tokens
from dinojax.models.block import Block, LayerInputs, Streams
from dinojax.models.dense import INIT_STD
from dinojax.models.embed import Embed, patch_grid
from dinojax.models.features import CropDraws, Features
from dinojax.models.ffn import hidden_width
from dinojax.models.norm import NORM_LAYERS
from dinojax.models.remat import REMAT_POLICIES
from dinojax.precision import Precision
from dinojax.typing import Array, Bool, Float


class VisionTransformer(nn.Module):
    """ViT with parameters stacked over depth. Field names are the configuration's words.

    Images are ``[G, b, h, w, C]``: G groups of b crops each (`dinojax.typing`). For plain encoding
    use G = 1. Any side of at least one patch works; whole patches only are used.
    """

    embed_dim: int
    depth: int
    num_heads: int
    precision: Precision
    patch_size: int = 16
    ffn_layer: str = "mlp"
    ffn_ratio: float = 4.0
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    mask_k_bias: bool = False
    norm_layer: str = "layernorm"
    layerscale: float | None = 1e-5
    init_std: float = INIT_STD
    n_storage_tokens: int = 0
    untie_cls_and_patch_norms: bool = False
    untie_global_and_local_cls_norm: bool = False
    pos_embed_rope_base: float | None = 100.0
    pos_embed_rope_min_period: float | None = None
    pos_embed_rope_max_period: float | None = None
    pos_embed_rope_normalize_coords: str = "separate"
    pos_embed_grid: int | None = None
    """Side, in patches, of DINOv2's learned position table, which then takes the place of RoPE."""
    interpolate_offset: float = 0.1
    interpolate_antialias: bool = False
    """How that table is resampled for other grids (`embed.resample_positions`)."""
    attention_backend: str = "auto"
    """A key of `dinojax.kernels.attention.BACKENDS`, or the best for the chips and shapes."""
    remat: str = "none"
    scan_unroll: int = 1

    @property
    def stride(self) -> int:
        """Pixels between neighbouring patch tokens."""
        return self.patch_size

    @property
    def tensor_sizes(self) -> dict[str, int]:
        """What a split over the mesh's tensor axis has to divide, by name."""
        hidden = hidden_width(self.embed_dim, self.ffn_ratio, self.ffn_layer)
        return {"num_heads": self.num_heads, "the hidden width": hidden}

    def setup(self):
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim={self.embed_dim} is not a multiple of num_heads={self.num_heads}; "
                f"use {self.embed_dim // self.num_heads * self.num_heads} or another num_heads"
            )
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f"remat={self.remat!r} is unknown; use one of {list(REMAT_POLICIES)}")
        if self.norm_layer not in NORM_LAYERS:
            raise ValueError(
                f"norm_layer={self.norm_layer!r} is unknown; use one of {list(NORM_LAYERS)}"
            )
        self.embed = Embed(
            self.embed_dim,
            self.patch_size,
            self.n_storage_tokens,
            self.precision,
            self.pos_embed_grid,
            self.interpolate_offset,
            self.interpolate_antialias,
        )
        self.blocks = Block(
            self.num_heads,
            self.ffn_layer,
            self.ffn_ratio,
            self.qkv_bias,
            self.proj_bias,
            self.ffn_bias,
            self.mask_k_bias and self.qkv_bias,
            self.norm_layer,
            self.layerscale,
            self.init_std,
            self.attention_backend,
            self.precision,
        )
        norm = NORM_LAYERS[self.norm_layer]
        self.norm = norm(self.precision)
        if self.untie_cls_and_patch_norms:
            self.cls_norm = norm(self.precision)
        if self.untie_global_and_local_cls_norm:
            self.local_cls_norm = norm(self.precision)

    def __call__(
        self,
        global_crops: Float[Array, "G b h w C"],
        local_crops: Float[Array, "G e s t C"] | None = None,
        *,
        masks: Bool[Array, "G b P"] | None = None,
        draws: tuple[CropDraws | None, ...] = (None, None),
    ) -> tuple[Features, ...]:
        """Features of the global crops and, if given, of the local crops, in one pass over depth.

        `masks` replaces global patches by the mask token. `draws` are for (global, local). Local
        crops use `local_cls_norm` where the model has it.
        """
        crops = [global_crops] if local_crops is None else [global_crops, local_crops]
        streams, inputs = self._enter(crops, masks, draws)
        streams, _ = self._layers(streams, inputs, ())
        features = [self._features(streams[0])]
        if local_crops is not None:
            features.append(self._features(streams[1], local=True))
        return tuple(features)

    def intermediate(
        self,
        images: Float[Array, "G b h w C"],
        layers: Sequence[int],
        *,
        norm: bool = True,
    ) -> list[Features]:
        """Features after the given 0-based `layers`, in ascending order of depth.

        With `norm` the final norm is applied to each of them, as the reference's dense heads
        expect.

        Raises:
            ValueError: a layer index outside the model.
        """
        wanted = sorted(set(layers))
        if not wanted or wanted[0] < 0 or wanted[-1] >= self.depth:
            raise ValueError(f"layers={list(layers)} must be non-empty, within 0..{self.depth - 1}")
        streams, inputs = self._enter([images], None, (None,))
        _, collected = self._layers(streams, inputs, tuple(wanted))
        return [self._features(x) if norm else self._split(x, x) for x in collected]

    def _enter(self, crops, masks, draws):
        """Tokens and per-layer inputs of each crop size."""
        streams, inputs = [], []
        for index, images in enumerate(crops):
            streams.append(self.embed(images, masks if index == 0 else None))
            given = draws[index] or CropDraws(None, None)
            inputs.append(LayerInputs(self._rope(images.shape[2:4], given.coordinates), given.kept))
        return tuple(streams), tuple(inputs)

    def _rope(
        self, size: tuple[int, ...], coordinates: CoordinateDraws | None
    ) -> RopeTables | None:
        if self.pos_embed_grid is not None:
            if coordinates is not None:
                raise ValueError(
                    f"pos_embed_grid={self.pos_embed_grid} replaces RoPE, so no coordinates can be "
                    "shifted, jittered or rescaled; set pos_embed_rope_*_coords to None"
                )
            return None
        periods = rope_periods(
            self.embed_dim // self.num_heads,
            base=self.pos_embed_rope_base,
            min_period=self.pos_embed_rope_min_period,
            max_period=self.pos_embed_rope_max_period,
            dtype=self.precision.rope,
        )
        return rope_tables(
            patch_grid(size[0], size[1], self.patch_size),
            periods,
            mode=self.pos_embed_rope_normalize_coords,
            prefix_tokens=1 + self.n_storage_tokens,
            draws=coordinates,
        )

    def _layers(
        self,
        streams: Streams,
        inputs: tuple[LayerInputs, ...],
        collect: tuple[int, ...],
    ) -> tuple[Streams, list[Tokens]]:
        """Run all layers; also return the first stream after each layer in `collect`."""
        # One slot per collected layer and a last one that every other layer overwrites.
        slots = (
            jnp.full(self.depth, len(collect))
            .at[jnp.array(collect, int)]
            .set(jnp.arange(len(collect)))
        )
        buffer = jnp.zeros((len(collect) + 1, *streams[0].shape), streams[0].dtype)

        def layer(block, carry, given):
            streams, buffer = carry
            inputs, slot = given
            streams = block(streams, inputs)
            if collect:
                buffer = jax.lax.dynamic_update_index_in_dim(buffer, streams[0], slot, 0)
            return (streams, buffer), None

        policy = REMAT_POLICIES[self.remat]
        if policy is not None:
            layer = nn.remat(layer, prevent_cse=False, policy=policy)
        # Tables with a layer axis are scanned; those without augmentation are shared by all layers.
        axes = tuple(
            LayerInputs(0 if i.rope and i.rope.sin.ndim == 4 else nn.broadcast, 0)  # type: ignore[arg-type]
            for i in inputs
        )
        scan = nn.scan(
            layer,
            variable_axes={"params": 0, "intermediates": 0, CLS_ATTENTION: 0},
            split_rngs={"params": True},
            in_axes=((axes, 0),),  # type: ignore[arg-type]
            length=self.depth,
            unroll=self.scan_unroll,
        )
        (streams, buffer), _ = scan(self.blocks, (streams, buffer), (inputs, slots))
        return streams, list(buffer[:-1])

    def _features(self, x: Tokens, local: bool = False) -> Features:
        """Final norms: prefix tokens may have one of their own, another one for local crops."""
        prefix_norm = self.norm
        if self.untie_cls_and_patch_norms:
            prefix_norm = self.cls_norm
        if self.untie_global_and_local_cls_norm:
            if self.is_initializing():
                self.local_cls_norm(x)
            prefix_norm = self.local_cls_norm if local else prefix_norm
        if prefix_norm is self.norm:
            return self._split(self.norm(x), x)
        start = 1 + self.n_storage_tokens
        parts = [prefix_norm(x[:, :, :start]), self.norm(x[:, :, start:])]
        return self._split(jnp.concatenate(parts, axis=2), x)

    def _split(self, x: Tokens, prenorm: Tokens) -> Features:
        start = 1 + self.n_storage_tokens
        return Features(x[:, :, 0], x[:, :, 1:start], x[:, :, start:], prenorm)
