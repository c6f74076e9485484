"""From a folder of some 600 images to a training run, by all stages: the walk of docs/curation.md.

Command:  python -m dinojax.curate STAGE --config=configs/curation/scenes.py --workdir=runs/curated
Stages:   embed, dedup, cluster, sample, retrieve, mix, in this order; page shows what they did
Then:     python -m dinojax.train --config=configs/quickstart.py --workdir=runs/curated_run
              --flagfile=runs/curated/mix/data.flags
Before:   images in data/pool, data/test and data/seeds, and the quickstart's run in runs/quickstart
Cost:     seconds each on a CPU

The thresholds are for the features of a small backbone, which are more alike than those of a
copy detector; choose yours by looking at what they join.
"""

from typing import Any

from dinojax.config.curation import default_config

WORKDIR = "runs/curated"


def get_config() -> Any:
    config = default_config()
    config.embed.model = "runs/quickstart"
    parts = ("pool", "test", "seeds")
    config.embed.sources = tuple((part, f"folder:data/{part}") for part in parts)
    config.embed.image_px = 64

    config.dedup.rows.folder = f"{WORKDIR}/embed/pool"
    config.dedup.references = (f"{WORKDIR}/embed/test",)
    config.dedup.threshold = config.dedup.reference_threshold = 0.85

    for rows in (config.cluster.rows, config.retrieve.rows):
        rows.folder, rows.ids = f"{WORKDIR}/embed/pool", f"{WORKDIR}/dedup/kept.parquet"
    config.cluster.clusters = (60, 15)
    config.cluster.rounds = (0, 9)
    config.cluster.kept = (1, 2)
    config.sample.target = 100
    config.retrieve.seeds.folder = f"{WORKDIR}/embed/seeds"

    config.mix.parts = (
        ("sampled", f"ids:{WORKDIR}/sample/selection.parquet:folder:data/pool"),
        ("retrieved", f"ids:{WORKDIR}/retrieve/selection.parquet:folder:data/pool"),
        ("curated", "folder:data/seeds"),
    )
    config.mix.homogeneous = "curated"
    config.mix.steps, config.mix.batch_size = 640, 32

    config.page.source = "folder:data/pool"
    config.page.references = ("folder:data/test",)
    config.page.seeds = "folder:data/seeds"
    return config
