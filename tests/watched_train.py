"""``watched_train.py NOTES.json --config=...``: `dinojax.train` that also notes what it saw.

Of every slot that this process loads: record, canvas and size. Of every step: crops, masks and
draws, whole. Pixels and the like as hashes. DEVICES orders the devices in the mesh, as on a torus
whose numbers interleave those of hosts.
"""

import atexit
import json
import os
import runpy
import sys
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

import jax
import numpy as np

from dinojax import mesh, trees
from dinojax.build import inputs as build_inputs
from dinojax.build import step as build
from dinojax.data import pipeline
from dinojax.runtime import loop

NOTES = Path(sys.argv.pop(1))
notes = {}

make_loader, run, device_grid = pipeline.make_loader, loop.run, mesh.device_grid
real_train_step, real_inputs = build.build_train_step, build_inputs.build_inputs


def hashed(*arrays: np.ndarray) -> str:
    return blake2b(b"".join(np.asarray(a).tobytes() for a in arrays), digest_size=8).hexdigest()


def watched_loader(source, order, *, slots, **options):
    with closing(make_loader(source, order, slots=slots, **options)) as batches:
        for batch in batches:
            arrays = (batch[name] for name in ("index", "canvas", "size"))
            for slot, index, canvas, size in zip(slots, *arrays, strict=True):
                name = source.record_id(int(index))
                notes[f"step {batch['step']} slot {slot}"] = [name, hashed(canvas, size)]
            yield batch


def watched_step(config):
    """Its metrics hold the inputs as well."""
    seen = {}

    def inputs(batch, step):
        seen["inputs"] = real_inputs(config)(batch, step)
        return seen["inputs"]

    build.build_inputs = lambda config: inputs
    step = real_train_step(config)

    def call(state, batch):
        state, metrics = step(state, batch)
        return state, metrics | {"inputs": seen["inputs"]}

    return call


def watched_run(state, *, train_step_at, **options):
    def watched_at(step):
        def call(state, batch):
            state, metrics = train_step_at(step)(state, batch)
            for path, leaf in trees.flatten(jax.device_get(metrics.pop("inputs"))).items():
                notes[f"step {step} {path}"] = hashed(leaf)
            return state, metrics

        return call

    return run(state, train_step_at=watched_at, **options)


def ordered_grid(sizes, devices):
    order = [int(i) for i in os.environ.get("DEVICES", "").split()] or range(len(devices))
    return device_grid(sizes, [devices[i] for i in order])


pipeline.make_loader, loop.run, mesh.device_grid = watched_loader, watched_run, ordered_grid
build.build_train_step = watched_step
atexit.register(lambda: NOTES.write_text(json.dumps(notes)))
runpy.run_module("dinojax.train", run_name="__main__", alter_sys=True)
