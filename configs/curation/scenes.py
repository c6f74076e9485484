"""Curation of the embedded scenes, sized for a machine with no data on it.

Command:  python -m dinojax.curate STAGE --config=configs/curation/scenes.py --workdir=runs/x
Stages:   cluster, sample
Before:   dinojax.embed("scenes:2048", "runs/quickstart", "runs/embedded"); see docs/curation.md

Two levels of clusters, 2048 scenes to 512.
"""

from typing import Any

from dinojax.config_curation import default_config


def get_config() -> Any:
    config = default_config()
    config.cluster.rows.folder = "runs/embedded"
    config.cluster.clusters = (128, 32)
    config.cluster.rounds = (0, 9)
    config.cluster.kept = (1, 2)
    config.sample.target = 512
    return config
