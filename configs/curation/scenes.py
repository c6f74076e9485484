"""A pool of some 500 embedded scenes, long-tailed, with copies: the walk of docs/curation.md.

Command:  python -m dinojax.curate STAGE --config=configs/curation/scenes.py --workdir=runs/curated
Stages:   dedup, cluster, sample, retrieve; page shows what they did
Before:   the features of pool, test images and seeds in runs/pool, runs/test and runs/seeds
Cost:     seconds each on a CPU

The thresholds are for the features of a small backbone, which are more alike than those of a
copy detector; choose yours by looking at what they join.
"""

from typing import Any

from dinojax.config_curation import default_config


def get_config() -> Any:
    config = default_config()
    config.dedup.rows.folder = "runs/pool"
    config.dedup.references = ("runs/test",)
    config.dedup.threshold = config.dedup.reference_threshold = 0.85

    config.cluster.rows.folder = "runs/pool"
    config.cluster.rows.ids = "runs/curated/dedup/kept.parquet"
    config.cluster.clusters = (60, 15)
    config.cluster.rounds = (0, 9)
    config.cluster.kept = (1, 2)
    config.sample.target = 100

    config.retrieve.rows.folder = "runs/pool"
    config.retrieve.rows.ids = "runs/curated/dedup/kept.parquet"
    config.retrieve.seeds.folder = "runs/seeds"

    config.page.source = "folder:data/pool"
    config.page.references = ("folder:data/test",)
    config.page.seeds = "folder:data/seeds"
    return config
