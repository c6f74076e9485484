"""``embed_process.py COORDINATOR PROCESSES PROCESS FOLDER``: one process's part of an embedding."""

import sys

import pytest
from small_models import add_presets

import dinojax
from dinojax.runtime import cluster

coordinator, processes, process, folder = sys.argv[1:]
if int(processes) > 1:
    cluster.start(coordinator, int(processes), int(process))
with pytest.MonkeyPatch.context() as patch:
    add_presets(patch)
    with cluster.together("embed", lambda error: 1):
        paths = dinojax.embed(
            "scenes:30", "random:small16", folder, image_px=32, batch_size=4, shard=7
        )
print(*(path.name for path in paths))
