"""Host memory of an import: ``python benchmarks/import_memory.py --billions=6.7 --folder=/tmp/x``.

Writes a Hugging Face folder of random bfloat16 weights of a ViT-7B/16 (or of fewer of its layers),
shard by shard, and reads it in a process of its own into a mesh of 8 CPU devices, whose arrays lie
in this host's memory. Prints the peak over the size of the model, and deletes the folder.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from dinojax import mesh as meshes
from dinojax import trees
from dinojax.export.hf_names import to_hf
from dinojax.export.incoming import Incoming
from dinojax.export.names import Leaf, leaves_of
from dinojax.export.safetensors_file import write_safetensors
from dinojax.export.sharded_file import INDEX, WEIGHT_MAP
from dinojax.export.weights import open_weights
from dinojax.models.presets import Backbone, backbone_shapes, get_preset
from dinojax.precision import get_precision
from dinojax.runtime.checkpoint import abstract

DEVICES = 8
ALL_LAYERS, LAYER_BILLIONS = 40, 0.1678
BF16 = np.dtype(ml_dtypes.bfloat16)
SAMPLE = 1 << 20
SAMPLE_S = 0.02


def model(layers: int) -> Backbone:
    return get_preset("vit7b16").build(get_precision("float32"), depth=layers)


def entries(
    leaf: Leaf, rng: np.random.Generator, layer: int | None
) -> Iterator[tuple[str, np.ndarray]]:
    names = leaf.names if layer is None else leaf.names[layer : layer + 1]
    for name in names:
        noise = rng.standard_normal(SAMPLE, np.float32).astype(BF16)
        yield name, np.resize(noise, leaf.entry_shape)  # values do not matter here, bytes do


def write(folder: Path, layers: int) -> int:
    """One shard per layer and one for the rest; returns the bytes of all tensors."""
    folder.mkdir(parents=True)
    backbone, rng, names, size = model(layers), np.random.default_rng(0), {}, 0
    leaves = leaves_of(backbone_shapes(backbone, 3))
    for layer in (None, *range(layers)):
        state = {
            name: value
            for leaf in leaves
            if leaf.stacked == (layer is not None)
            for name, value in entries(leaf, rng, layer)
        }
        tensors = to_hf(backbone, state).tensors
        file = f"{'rest' if layer is None else layer}.safetensors"
        write_safetensors(folder / file, tensors, {"format": "pt"})
        names |= dict.fromkeys(tensors, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
    (folder / INDEX).write_text(json.dumps({WEIGHT_MAP: names}))
    return size


class Peaks(threading.Thread):
    """Largest anonymous and whole resident set of this process, in bytes."""

    def __init__(self):
        super().__init__(daemon=True)
        self.anonymous = self.resident = 0

    def run(self) -> None:
        while True:
            now = memory()
            self.anonymous = max(self.anonymous, now["RssAnon"])
            self.resident = max(self.resident, now["VmRSS"])
            time.sleep(SAMPLE_S)


def memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "VmRSS")}


def read(folder: Path, layers: int) -> None:
    backbone = model(layers)
    shapes = backbone_shapes(backbone.clone(untie_global_and_local_cls_norm=False), 3)
    mesh = meshes.make_mesh(1, DEVICES)
    like = abstract(shapes, meshes.shardings(mesh, shapes))
    held = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, BF16, sharding=leaf.sharding), like
    )
    before, peaks, started = memory(), Peaks(), time.perf_counter()
    peaks.start()
    incoming = Incoming(open_weights(str(folder)), held)
    incoming.check()
    params = incoming.place(held)
    jax.block_until_ready(params)
    seconds = time.perf_counter() - started
    time.sleep(2 * SAMPLE_S)
    size = sum(
        shard.data.nbytes for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards
    )
    found = {
        "parameters": trees.count(params),
        "model_gb": trees.byte_count(params) / 1e9,
        "on_devices_gb": size / 1e9,
        "before_gb": before["VmRSS"] / 1e9,
        "peak_anonymous_gb": peaks.anonymous / 1e9,
        "peak_resident_gb": peaks.resident / 1e9,
        "anonymous_over_model": peaks.anonymous / trees.byte_count(params),
        "resident_over_model": peaks.resident / trees.byte_count(params),
        "seconds": seconds,
    }
    print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--billions", type=float, default=6.7, help="parameters, by whole layers")
    parser.add_argument("--folder", type=Path, required=True, help="is written, and deleted")
    parser.add_argument("--read", action="store_true", help="what the process of its own does")
    given = parser.parse_args()
    layers = min(max(round(given.billions / LAYER_BILLIONS), 1), ALL_LAYERS)
    if given.read:
        read(given.folder, layers)
        return
    try:
        size = write(given.folder, layers)
        print(f"{layers} layers, {size / 1e9:.2f} GB in {given.folder}", flush=True)
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(DEVICES)}
        subprocess.run([sys.executable, *sys.argv, "--read"], env=environment, check=True)
    finally:
        shutil.rmtree(given.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
