"""The keys of backbones: ``student`` and ``distillation.backbone``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneConfig:
    """A backbone: a preset, and what differs from it. None keeps the preset's value."""

    arch: str = "vitl16"
    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    depths: tuple[int, ...] | None = None
    """Layers of each stage of a ConvNeXt, which has this and `dims` for the three keys above."""
    dims: tuple[int, ...] | None = None
    patch_size: int | None = None
    """Side of a patch in px. Of a ConvNeXt, whose patch tokens are 32 px apart, the grid that the
    maps of earlier stages are resized to for dense tasks."""
    ffn_layer: str | None = None
    ffn_ratio: float | None = None
    qkv_bias: bool | None = None
    proj_bias: bool | None = None
    ffn_bias: bool | None = None
    mask_k_bias: bool | None = None
    norm_layer: str | None = None
    layerscale: float | None = None
    """0 means no LayerScale."""
    init_std: float | None = None
    """Of the layers' weights. The reference's 0.02 suits widths near 1,000; narrow models wait long
    on the uniform plateau with it and want about 1 / sqrt(embed_dim)."""
    n_storage_tokens: int | None = None
    untie_cls_and_patch_norms: bool | None = None
    untie_global_and_local_cls_norm: bool | None = None
    pos_embed_grid: int | None = None
    """Side of DINOv2's learned position table, in patches; such models have no RoPE. For training
    that of the global crops; the presets have 37."""
    interpolate_offset: float | None = None
    """Added to the sides of a grid that the table is resampled for, where the step is taken."""
    interpolate_antialias: bool | None = None
    pos_embed_rope_base: float | None = None
    """0 means: take the periods from the two bounds."""
    pos_embed_rope_min_period: float | None = None
    pos_embed_rope_max_period: float | None = None
    pos_embed_rope_normalize_coords: str | None = None
    attention_backend: str | None = None
    """reference, tpu, cudnn, flash, flash_mma (docs/kernels.md); None: the best for the shapes."""
    scan_unroll: int = 1
    """Layers per iteration of the scan over depth."""


@dataclass(frozen=True)
class StudentConfig(BackboneConfig):
    """The backbone that is trained, and its regularisers."""

    in_chans: int = 3
    pos_embed_rope_shift_coords: float | None = None
    pos_embed_rope_jitter_coords: float | None = None
    pos_embed_rope_rescale_coords: float | None = None
    drop_path_rate: float = 0.3
    """Share of the crops that each layer leaves out; of a ConvNeXt the last one, rising from 0."""
    remat: str = "none"
    """What layers keep for the backward pass: none, dots or full rematerialisation."""
