"""What a step moves between devices, from the shapes alone: `hlo` says the same of a program."""

import math

import jax
from jax.sharding import AbstractMesh

from dinojax import mesh as meshes
from dinojax.build import build_model
from dinojax.config import Config
from dinojax.planning.streams import MeshShape, token_streams
from dinojax.precision import get_precision
from dinojax.ssl.state import TrainState
from dinojax.trees import flatten

HLO_NAMES = {"bfloat16": "bf16", "float32": "f32", "float64": "f64"}
SINKHORN_ITERATIONS = 3


def predict_collectives(
    config: Config, shape: MeshShape, state: TrainState
) -> list[dict[str, str | int | bool]]:
    """As `hlo.summary`: arrays and bytes per step, by kind, dtype and place.

    Weights of layers are gathered once in the teacher's pass, the student's, and its backward pass,
    which uses those of the heads again; gradients are reduced once per micro-batch. Small things
    (statistics, losses) are left out.
    """
    precision, parts = get_precision(config.train.precision), config.train.micro_batches
    compute, master = (
        HLO_NAMES[str(jax.numpy.dtype(d))] for d in (precision.compute, precision.param)
    )
    mesh = AbstractMesh(shape, (*meshes.BATCH_AXES, "tensor"))
    layout = flatten(meshes.shardings(mesh, state.student))
    rows: dict[tuple[str, str, bool], list[int]] = {}

    def add(kind: str, dtype: str, inside: bool, times: int, numbers: int) -> None:
        row = rows.setdefault((kind, dtype, inside), [0, 0])
        row[0] += times
        row[1] += times * numbers * {"bf16": 2, "f32": 4, "f64": 8}[dtype]

    for path, leaf in flatten(state.student).items():
        inside = bool(meshes.STACKED.search(path))
        times = parts * (leaf.shape[0] if inside else 1)
        split = "tensor" in layout[path].spec
        numbers = math.prod(leaf.shape[1:] if inside else leaf.shape)
        numbers //= shape.tensor if split else 1
        if "fsdp" in layout[path].spec:
            add("all-gather", compute, inside, (3 if inside else 2) * times, numbers)
            add("reduce-scatter", master, inside, times, numbers)
            if shape.data > 1:
                add("all-reduce", master, inside, times, numbers // shape.fsdp)
        elif shape.batch_shards > 1:
            add("all-reduce", master, inside, times, numbers)
    if shape.tensor > 1:
        backbone = build_model(config).backbone
        streams = token_streams(config, shape)
        for stream in streams:  # after attention and after the FFN, in three passes
            numbers = stream.kept * stream.length * backbone.embed_dim
            add("all-reduce", compute, True, 3 * 2 * parts * backbone.depth, numbers)
    if shape.batch_shards > 1 and config.train.centering == "sinkhorn_knopp":
        for head in (config.dino.head, config.ibot.head):
            columns = head.n_prototypes // shape.tensor
            add("all-reduce", "f32", False, SINKHORN_ITERATIONS, columns)
    return [
        {"kind": kind, "dtype": dtype, "in_layer_loop": inside, "count": count, "bytes": size}
        for (kind, dtype, inside), (count, size) in sorted(rows.items())
    ]
