"""The configuration of ``dinojax.curate``: a section per stage."""

from dataclasses import dataclass
from typing import Any

import ml_collections

from dinojax.config.parse import parse, to_config_dict
from dinojax.curation.cluster_stage import ClusterOptions
from dinojax.curation.dedup_stage import DedupOptions
from dinojax.curation.embed_stage import EmbedOptions
from dinojax.curation.mix_stage import MixOptions
from dinojax.curation.retrieve_stage import RetrieveOptions
from dinojax.curation.runners import RunnerOptions
from dinojax.curation.sample_stage import SampleOptions
from dinojax.curation_page.options import PageOptions


@dataclass(frozen=True)
class CurationConfig:
    """Stages read their own section, and of the others none but `runner`."""

    seed: int = 0
    """Of all draws: where k-means begins, and which records are taken."""
    runner: RunnerOptions = RunnerOptions()
    """Of the tables of dedup and sample."""
    tensor: int = 1
    """Devices that share the centres of clusters; 1: each holds them all."""
    embed: EmbedOptions = EmbedOptions()
    dedup: DedupOptions = DedupOptions()
    cluster: ClusterOptions = ClusterOptions()
    sample: SampleOptions = SampleOptions()
    retrieve: RetrieveOptions = RetrieveOptions()
    mix: MixOptions = MixOptions()
    page: PageOptions = PageOptions()


def default_config() -> Any:
    """The defaults as a locked ConfigDict, for files to change."""
    return to_config_dict(CurationConfig()).lock()


def parse_config(config: ml_collections.ConfigDict) -> CurationConfig:
    """Typed configuration from a file.

    Raises:
        ValueError: an unknown key (with the nearest known one) or a value of the wrong type.
    """
    return parse(CurationConfig, config.to_dict())
