"""The keys of ``data``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScenesConfig:
    """Size of the embedded procedural dataset, when data.source is "scenes"."""

    num_images: int = 4096
    image_px: int = 64
    num_classes: int = 10


@dataclass(frozen=True)
class DataConfig:
    """Where images come from."""

    source: str = "scenes"
    """"scenes", a folder of images, a .tar of images, or kind:path as in docs/data.md."""
    ids: str | None = None
    """File of the record ids to train on, as often as each is listed: text with one per line, or
    Parquet with a column id. None: all records. Parts of a mixture take ids:FILE:SPEC instead."""
    mixture: tuple[tuple[str, float], ...] = ()
    """(source, weight) pairs that take the place of data.source, which then stays at its default.
    Weights are in any unit; 0 is for the homogeneous source alone."""
    homogeneous_source: str | None = None
    """The source in the mixture from which homogeneous steps take their whole batch."""
    homogeneous_share: float = 0.0
    """Share of the steps that are homogeneous: of every 1 / share steps one at a hashed place."""
    holdout: float = 0.1
    """Share of the records kept out of training, for the monitor. Of a mixture one part gives them:
    the homogeneous source, or else the first; one with labels, if any has."""
    canvas_px: int = 512
    """Side that images are averaged down to where they are larger, before crops are cut; at least
    the largest global or Gram crop."""
    num_workers: int = 0
    """Decoding processes; 0 decodes in threads of the main one."""
    prefetch_mb: int = 4096
    """Memory per host for batches loaded ahead, in MB; at least one batch is."""
    verify_images: int = 2048
    """Records decoded before training starts, spread over the source, to find unreadable ones."""
    bad_budget: float = 0.01
    """Share of the records read that may be unreadable and so be replaced; above it the run stops.
    0: stop at the first one."""
    read_timeout_s: float = 300.0
    """How long to wait for one image before the run stops; it is never replaced for being slow."""
    scenes: ScenesConfig = ScenesConfig()
