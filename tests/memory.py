"""``python tests/memory.py FOLDER WORKERS BATCHES``: what a loader holds, every 50 batches.

A process of its own, without the type checks of the tests, which keep some memory for every call.
Prints JSON: ``{"held": [[MB, descriptors], ..], "problems": n}``.
"""

import json
import multiprocessing
import os
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path

from dinojax.data.folder import FolderSource
from dinojax.data.order import Order
from dinojax.data.pipeline import make_loader
from dinojax.runtime.quarantine import Quarantine

GLOBAL_BATCH, CANVAS_PX = 4, 64
EVERY = 50


def held() -> tuple[float, int]:
    """Resident MB and open descriptors of this process and its workers.

    A batch in a nameless file that nobody maps is in no resident set: only its descriptor shows.
    """
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 10**6, descriptors


def main(folder: str, num_workers: int, count: int) -> None:
    source = FolderSource(folder)
    order = Order((len(source),), GLOBAL_BATCH, seed=5)
    options = {"canvas_px": CANVAS_PX, "num_workers": num_workers, "num_threads": 2}
    ledger = Path(folder).parent
    quarantine = Quarantine(ledger, global_batch=GLOBAL_BATCH, first_step=0, budget=1.0)
    problems, seen = 0, []
    with closing(make_loader(source, order, **options)) as loader:
        for i, batch in enumerate(islice(quarantine.watch(loader), count), 1):
            problems += len(batch["problems"])
            if i % EVERY == 0:
                seen.append(held())
    print(json.dumps({"held": seen, "problems": problems}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
