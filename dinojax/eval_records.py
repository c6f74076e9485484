"""From a run's configuration, flags and the evaluation's own to the records that are scored."""

import dataclasses

from dinojax.config import Config
from dinojax.config.evaluation import RecordsConfig
from dinojax.data.eval_records import EvalRecords
from dinojax.data.layouts.table import open_layout
from dinojax.data.source import Source
from dinojax.evaluation.monitor import evenly
from dinojax.training.data import open_data


def open_eval_records(
    config: Config, options: RecordsConfig, data: str | None, *, videos: bool = False
) -> EvalRecords:
    """What --data names, or the records of the run, in no greater numbers than wanted.

    Args:
        config: of the run with `data` in it (`evaluated`).
        videos: whether test records are needed as whole videos.

    Raises:
        ValueError: records that cannot be scored, a layout without --data, or a limit that would
            leave out what judgements name or frames of videos.
        FileNotFoundError: no such data.
    """
    if options.layout is None:
        key = "data.holdout" if data is None else "records.holdout"
        records = EvalRecords(*open_records(config, key))
    elif data is None:
        raise ValueError(f"records.layout={options.layout!r} has no folder; give --data=DIR")
    else:
        records = open_layout(options.layout, data)
    most_train = config.knn.max_bank if options.max_train is None else options.max_train
    most_test = config.knn.max_queries if options.max_test is None else options.max_test
    if records.judged and 0 < most_train < len(records.train):
        raise ValueError(
            f"queries are judged by all {len(records.train)} images, not by records.max_train="
            f"{most_train} of them; use --config.records.max_train=0"
        )
    if videos and 0 < most_test < len(records.test):
        raise ValueError(
            f"records.max_test={most_test} of {len(records.test)} frames would not be whole "
            "videos; use --config.records.max_test=0"
        )
    kept = range(len(records.test))
    if most_test and len(records.test) > most_test:
        kept = [i * len(records.test) // most_test for i in range(most_test)]
    return dataclasses.replace(
        records,
        train=evenly(records.train, most_train) if most_train else records.train,
        test=evenly(records.test, most_test) if most_test else records.test,
        accepted=records.accepted and tuple(records.accepted[i] for i in kept),
        judged=records.judged and tuple(records.judged[i] for i in kept),
    )


def evaluated(
    config: Config,
    data: str | None,
    image_px: int | None,
    holdout: float = RecordsConfig.holdout,
) -> Config:
    """A run's configuration with other records or another size to evaluate on.

    Args:
        holdout: share of `data` that is scored: what suits the millions of a run would leave
            nothing to score of a thousand.
    """
    if data is not None:
        section = dataclasses.replace(
            config.data,
            source=data,
            ids=None,
            mixture=(),
            homogeneous_source=None,
            homogeneous_share=0.0,
            holdout=holdout,
        )
        config = dataclasses.replace(config, data=section)
    if image_px is not None:
        config = dataclasses.replace(config, knn=dataclasses.replace(config.knn, image_px=image_px))
    return config


def check_image_px(image_px: int, stride: int) -> None:
    """Raises ValueError: the backbone does not take images of this side."""
    if image_px < stride or image_px % stride:
        raise ValueError(
            f"--image_px={image_px} is not a multiple of the {stride} px between patches; "
            f"use {max(-(-image_px // stride), 1) * stride}"
        )


def open_records(config: Config, holdout_key: str = "data.holdout") -> tuple[Source, Source]:
    """(training, held-out) records of the run's data; `holdout_key` as for `open_data`.

    Raises:
        FileNotFoundError: no such data.
    """
    data = open_data(config, holdout_key)
    return data.bank, data.queries
