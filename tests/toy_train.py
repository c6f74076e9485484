"""``python -m dinojax.train`` whose step only averages the batch, over all processes.

Everything around the step is real, and nothing takes long to compile. BAD=N makes the steps from N
on non-finite, three of them. COLLAPSE=N makes step N spoil the state, which process 0 sees when it
evaluates it, and no other. FAIL makes this process fail: from step 2 on its loader meets
``records`` that cannot be read, a ``storage`` that is gone, a ``bug`` or a ``hang``; or its newest
``checkpoint`` cannot be read.
"""

import os
import runpy
import time

import jax
import jax.numpy as jnp

from dinojax.build import monitor as build_monitor
from dinojax.build import step as build
from dinojax.data import pipeline
from dinojax.data.load import Problem
from dinojax.data.threads import StorageError
from dinojax.runtime import stored_state

ERRORS = {"storage": StorageError("the disk is gone"), "bug": KeyError("nobody\nforesaw this")}
BAD = int(os.environ.get("BAD", 10**9))
COLLAPSE = int(os.environ.get("COLLAPSE", 10**9))
make_loader, load = pipeline.make_loader, stored_state.ocp.load


def build_train_step(config):
    def step(state, batch):
        mean = jnp.mean(batch["canvas"], dtype=jnp.bfloat16)
        bad = (state.step >= BAD) & (state.step < BAD + 3)
        in_a_row = jnp.where(bad, state.refused_in_a_row + 1, 0)
        metrics = {"total_loss": jnp.where(bad, jnp.nan, mean), "refused_in_a_row": in_a_row}
        spoilt = state.refused_steps + (state.step == COLLAPSE)  # what else nothing changes here
        after = {"step": state.step + 1, "refused_in_a_row": in_a_row, "refused_steps": spoilt}
        return state._replace(**after), metrics

    return step


def toy_monitor(*_):
    def evaluate(state):
        seen = int(state.refused_steps) and jax.process_index() == 0
        return {"rankme": 1.0 if seen else 40.0, "teacher_student_distance": 0.1}

    return evaluate


def failing_loader(source, order, *, slots, **options):
    for batch in make_loader(source, order, slots=slots, **options):
        if batch["step"] >= 2:
            if os.environ["FAIL"] in ERRORS:
                raise ERRORS[os.environ["FAIL"]]
            if os.environ["FAIL"] == "hang":
                time.sleep(10**6)
            first = batch["step"] * order.global_batch
            batch["problems"] = [
                Problem(first + slot, 0, f"image {slot}", "the file is empty", "another")
                for slot in slots
            ]
        yield batch


failures = []


def failing_load(*args, **options):
    if not failures:
        failures.append(1)
        raise ValueError("DATA_LOSS: checksum")
    return load(*args, **options)


build.build_train_step = build_train_step
if "COLLAPSE" in os.environ:
    build_monitor.make_monitor = toy_monitor
if os.environ.get("FAIL") == "checkpoint":
    stored_state.ocp.load = failing_load
elif "FAIL" in os.environ:
    pipeline.make_loader = failing_loader
runpy.run_module("dinojax.train", run_name="__main__", alter_sys=True)
