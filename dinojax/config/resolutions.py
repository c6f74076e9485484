"""Several resolutions in one run: the lists of crop sizes, taken apart into one recipe each.

DINOv3's high-resolution stage trains on five pairs of crop sizes with ratios; there each step draws
one of them, on every rank from the same generator. Here the choice is a function of (seed, step),
and each resolution comes as often as its ratio says to within a few steps.
"""

import dataclasses

from dinojax.config import Config
from dinojax.data.strata import Strata

SIZES = ("global_crops_size", "local_crops_size", "gram_teacher_crops_size")
RATIOS = "global_local_crop_pairs_ratios"


def resolutions(config: Config) -> tuple[Config, ...]:
    """The configuration of each resolution, without lists; `config` itself where it has none.

    Raises:
        ValueError: lists of different lengths, or ratios without a list of sizes.
    """
    lists = _lists(config)
    if not lists:
        return (config,)
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1 or not any(lengths.values()):
        raise ValueError(
            "the lists of the resolutions must be equally long, but "
            f"{' and '.join(f'crops.{name} has {n}' for name, n in lengths.items())}; give one "
            "value per resolution, or a single one for all"
        )
    if not lists.keys() & set(SIZES):
        raise ValueError(
            f"crops.{RATIOS}={lists[RATIOS]} has no resolutions to choose from; give as many "
            "crops.global_crops_size, or set it to 1.0"
        )
    sizes = {name: values for name, values in lists.items() if name != RATIOS}
    return tuple(
        dataclasses.replace(
            config,
            crops=dataclasses.replace(
                config.crops, **dict(zip(sizes, chosen, strict=True)), **{RATIOS: 1.0}
            ),
        )
        for chosen in zip(*sizes.values(), strict=True)
    )


def resolution_order(config: Config) -> Strata:
    """Which of `resolutions` each step takes: ``.at(step)[0]``.

    Raises:
        ValueError: a ratio that is not above 0.
    """
    ratios = config.crops.global_local_crop_pairs_ratios
    if not isinstance(ratios, tuple):
        ratios = (ratios,) * len(resolutions(config))
    if not min(ratios) > 0:
        raise ValueError(
            f"crops.{RATIOS}={ratios} must all be above 0; leave out the resolutions that no step "
            "takes"
        )
    return Strata(ratios, config.train.seed, f"crops.{RATIOS}")


def resolution_at(config: Config, step: int) -> Config:
    """The configuration, without lists, of what `step` trains on."""
    return resolutions(config)[resolution_order(config).at(step)[0]]


def _lists(config: Config) -> dict[str, tuple[int | float, ...]]:
    values = {name: getattr(config.crops, name) for name in (*SIZES, RATIOS)}
    return {name: value for name, value in values.items() if isinstance(value, tuple)}
