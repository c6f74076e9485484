"""What a step moves between devices, from the shapes alone: `hlo` says the same of a program."""

import math

import jax
from jax.sharding import AbstractMesh

from dinojax import mesh as meshes
from dinojax.build.model import build_frozen_model, build_model
from dinojax.config import Config
from dinojax.config.students import student_configs
from dinojax.planning.head_memory import teacher_tokens
from dinojax.planning.streams import MeshShape, token_streams
from dinojax.precision import get_precision
from dinojax.ssl.forward import SslModel
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.trees import flatten
from dinojax.typing import PyTree

HLO_NAMES = {"bfloat16": "bf16", "float32": "f32", "float64": "f64"}
SINKHORN_ITERATIONS = 3


def predict_collectives(
    config: Config, shape: MeshShape, state: TrainState | Students
) -> list[dict[str, str | int | bool]]:
    """As `hlo.summary`: arrays and bytes per step, by kind, dtype and place.

    Weights of layers are gathered once in the teacher's pass, in the student's, and in its backward
    pass, which uses those of the heads again; gradients are reduced once per micro-batch. Small
    things (statistics, losses) are left out.
    """
    precision, parts = get_precision(config.train.precision), config.train.micro_batches
    compute, master = (
        HLO_NAMES[str(jax.numpy.dtype(d))] for d in (precision.compute, precision.param)
    )
    mesh = AbstractMesh(shape, (*meshes.BATCH_AXES, "tensor"))
    rows: dict[tuple[str, str, bool], list[int]] = {}

    def add(kind: str, dtype: str, inside: bool, times: int, numbers: int) -> None:
        row = rows.setdefault((kind, dtype, inside), [0, 0])
        row[0] += times
        row[1] += times * numbers * {"bf16": 2, "f32": 4, "f64": 8}[dtype]

    def add_weights(tree: PyTree, learns: bool) -> None:
        layout = flatten(meshes.shardings(mesh, tree))
        for path, leaf in flatten(tree).items():
            inside = bool(meshes.STACKED.search(path))
            times = parts * (leaf.shape[0] if inside else 1)
            split = "tensor" in layout[path].spec
            numbers = math.prod(leaf.shape[1:] if inside else leaf.shape)
            numbers //= shape.tensor if split else 1
            if "fsdp" in layout[path].spec:
                gathers = 2 if learns and inside else 1
                add("all-gather", compute, inside, gathers * times, numbers)
                if learns:
                    add("reduce-scatter", master, inside, times, numbers)
                if learns and shape.data > 1:
                    add("all-reduce", master, inside, times, numbers // shape.fsdp)
            elif learns and shape.batch_shards > 1:
                add("all-reduce", master, inside, times, numbers)

    ema = isinstance(state, TrainState) and state.frozen_teacher is None
    add_weights(state.student, learns=True)
    teacher = state.frozen_teacher if isinstance(state, Students) else state.target_teacher
    add_weights(teacher, learns=False)
    students = list((student_configs(config) or {"": config}).values())
    if shape.tensor > 1:
        # After attention and after the FFN, in every pass.
        for one in students:
            backbone, passes = build_model(one).backbone, 3 if ema else 2
            for stream in token_streams(one, shape):
                numbers = stream.kept * stream.length * backbone.embed_dim
                add("all-reduce", compute, True, passes * 2 * parts * backbone.depth, numbers)
        frozen, images = build_frozen_model(config), config.train.batch_size // shape.batch_shards
        if frozen is not None:
            backbone, numbers = frozen.backbone, teacher_tokens(config, images)
            numbers *= backbone.embed_dim
            add("all-reduce", compute, True, 2 * parts * backbone.depth, numbers // parts)
    prototypes = isinstance(build_model(students[0]), SslModel)
    if shape.batch_shards > 1 and prototypes and config.train.centering == "sinkhorn_knopp":
        for one in students:
            for head in (one.dino.head, one.ibot.head):
                columns = head.n_prototypes // shape.tensor
                add("all-reduce", "f32", False, SINKHORN_ITERATIONS, columns)
    return [
        {"kind": kind, "dtype": dtype, "in_layer_loop": inside, "count": count, "bytes": size}
        for (kind, dtype, inside), (count, size) in sorted(rows.items())
    ]
