"""``python -m dinojax.curate`` that kills itself in step ``DIES_IN``, as SIGKILL does."""

import itertools
import os
import runpy
import signal

from dinojax.curation import seeding, tree

tree.SAVED_EVERY_S, seeding.PICKS = -1, 8
Step, count = tree.Step, itertools.count(1)


def step(*given):
    if str(next(count)) == os.environ.get("DIES_IN"):
        os.kill(os.getpid(), signal.SIGKILL)
    return Step(*given)


tree.Step = step
runpy.run_module("dinojax.curate", run_name="__main__", alter_sys=True)
