"""``python -m dinojax.train`` whose step only averages the batch, over all processes.

Everything around the step is real, and nothing takes long to compile. FAIL makes the loader of
this process fail from step 2 on: ``records`` that cannot be read, a ``storage`` that is gone, or a
``bug``.
"""

import os
import runpy

import jax.numpy as jnp

from dinojax import build
from dinojax.data import pipeline
from dinojax.data.load import Problem
from dinojax.data.threads import StorageError

ERRORS = {"storage": StorageError("the disk is gone"), "bug": KeyError("nobody\nforesaw this")}
make_loader = pipeline.make_loader


def build_train_step(config):
    def step(state, batch):
        mean = jnp.mean(batch["canvas"], dtype=jnp.bfloat16)
        return state._replace(step=state.step + 1), {"total_loss": mean}

    return step


def failing_loader(source, order, *, slots, **options):
    for batch in make_loader(source, order, slots=slots, **options):
        if batch["step"] >= 2:
            if os.environ["FAIL"] in ERRORS:
                raise ERRORS[os.environ["FAIL"]]
            first = batch["step"] * order.global_batch
            batch["problems"] = [
                Problem(first + slot, 0, f"image {slot}", "the file is empty", "another")
                for slot in slots
            ]
        yield batch


build.build_train_step = build_train_step
if "FAIL" in os.environ:
    pipeline.make_loader = failing_loader
runpy.run_module("dinojax.train", run_name="__main__", alter_sys=True)
