"""Whether a mesh can split the batch and the model of a configuration."""

import math

from dinojax.build.inputs import build_views, draw_group_size
from dinojax.build.model import FEATURES, build_backbone
from dinojax.config import Config
from dinojax.config.resolutions import resolutions
from dinojax.config.students import student_configs
from dinojax.precision import get_precision
from dinojax.ssl.prepare import group_mask_counts


def check_mesh(config: Config, *, batch_shards: int, tensor: int) -> None:
    """Check that a mesh can split the batch and the model.

    Args:
        batch_shards: parts the batch is split into (data x fsdp devices).
        tensor: parts that heads, hidden features and prototypes are split into.

    Raises:
        ValueError: names the key, its value, the rule and a value that works.
    """
    for one in student_configs(config).values():
        check_mesh(one, batch_shards=batch_shards, tensor=tensor)
    for resolution in resolutions(config):
        _check_groups(resolution, batch_shards)
    _check_tensor(config, tensor)


def _check_tensor(config: Config, tensor: int) -> None:
    backbone = build_backbone(config, get_precision(config.train.precision))
    parts = dict(backbone.tensor_sizes)
    if config.distillation.objective != FEATURES:
        parts["dino.head.n_prototypes"] = config.dino.head.n_prototypes
        parts["ibot.head.n_prototypes"] = config.ibot.head.n_prototypes
    odd = [f"{name}={size}" for name, size in parts.items() if size % tensor]
    if odd:
        common = math.gcd(*parts.values())
        working = [size for size in range(1, tensor) if common % size == 0]
        raise ValueError(
            f"mesh.tensor={tensor} does not divide {', '.join(odd)}; use one of {working[-4:]}"
        )


def _check_groups(config: Config, batch_shards: int) -> None:
    group, topk = draw_group_size(config), config.dino.koleo_topk
    koleo = config.dino.koleo_group_size or group
    _check_split(config, batch_shards, "train.draw_group_size", group)
    # A micro-batch is made of what each device has, so it does not hold the whole of a group that
    # crosses devices. The whole batch does: then features travel, and the value stays.
    shards = batch_shards if config.train.micro_batches > 1 else 1
    _check_split(config, shards, "dino.koleo_group_size", koleo, topk=topk)
    patch = build_backbone(config, get_precision(config.train.precision)).stride
    patches = (build_views(config).global_crops_size // patch) ** 2
    counts = group_mask_counts(
        group_size=group,
        num_patches=patches,
        sample_probability=config.ibot.mask_sample_probability,
        ratio_min_max=config.ibot.mask_ratio_min_max,
    )
    if not counts.sum():
        raise ValueError(
            f"ibot.mask_ratio_min_max={config.ibot.mask_ratio_min_max} with mask_sample_probability"
            f"={config.ibot.mask_sample_probability} masks none of {patches} patches per crop in "
            f"groups of {group} images; raise them, or enlarge crops.global_crops_size"
        )


def _check_split(config: Config, shards: int, name: str, size: int, *, topk: int = 0) -> None:
    """Groups of `size` images, more than `topk`, divide the batch, and each lies whole in one part
    of one of `shards`."""
    batch, micro_batches = config.train.batch_size, config.train.micro_batches
    parts = micro_batches * shards

    def works(size: int) -> bool:
        return size > topk and batch % (size * parts) == 0

    if works(size):
        return
    working = [size for size in range(1, batch + 1) if works(size)]
    fix = f"use one of {name}={working[-4:]}"
    if not working:
        unit = batch if topk else parts  # draw groups, which come first, divide this batch
        multiple = unit * math.ceil(parts * (topk + 1) / unit)
        fix = f"use a train.batch_size that is a multiple of {multiple}"
    times = f"train.micro_batches={micro_batches} x " if micro_batches > 1 else ""
    number = f"a multiple of {times}{shards} batch shards" if parts > 1 else "a whole number"
    larger = f", each of more than dino.koleo_topk={topk} images" if topk else ""
    raise ValueError(
        f"train.batch_size={batch} is not {number} of groups of {name}={size}{larger}: {fix}"
    )
