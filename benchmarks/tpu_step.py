"""What a train step moves and holds on a TPU that is not there, for each attention backend.

    python benchmarks/tpu_step.py --config=configs/dinov3_vitl16_in1k.py --topology=v5e:4x4 \
        --config.student.remat=full --config.mesh.fsdp=4

Compiled by libtpu (``pip install -e '.[tpu]'``), not run. The compiler counts what a loop moves
once, so a second program with two layers to a turn of the loop says what one layer moves, and
``total = program + (depth - 1) (program with two - program)``. Of a Pallas call it counts what that
declares; `tests/kernels/test_attention_tpu.py` holds this to what its blocks move. The last lines
are JSON.
"""

import json
import sys

import jax
from absl import app, flags
from ml_collections import config_flags

from dinojax.build.model import build_model
from dinojax.config import parse_config
from dinojax.config.parse import quote_keywords
from dinojax.planning.mesh_choice import choose_mesh
from dinojax.planning.topologies import GIB, parse_topology
from dinojax.planning.tpu_compiler import compile_for


def measure(given, topology, backend: str, effort: float) -> dict[str, float | str]:
    """GiB per device: at the peak, moved by a layer both ways, moved by the step."""
    given.student.attention_backend = backend
    config = parse_config(given)
    shape = choose_mesh(config, topology.devices, topology.chip.hbm_bytes).shape
    programs = []
    for given.student.scan_unroll in (1, 2):
        programs.append(compile_for(parse_config(given), topology, shape, effort))
    one, two = (program.bytes_moved for program in programs)
    if one is None or two is None:
        raise SystemExit(f"{backend}: {programs[0].hbm_bytes / GIB:.2f} GiB do not fit")
    layer, depth = two - one, build_model(config).backbone.depth
    return {
        "backend": backend,
        "peak_gib": programs[0].hbm_bytes / GIB,
        "layer_gib": layer / GIB,
        "step_gib": (one + (depth - 1) * layer) / GIB,
        "seconds": sum(program.seconds for program in programs),
    }


def main(argv: list[str]) -> None:
    del argv
    values = flags.FLAGS
    topology = parse_topology(values.topology)
    name = config_flags.get_config_filename(values["config"])
    rows = []
    for backend in values.backends:
        rows.append(measure(values.config, topology, backend, values.effort))
        print("  ".join(f"{x:.3f}" if isinstance(x, float) else x for x in rows[-1].values()))
    for row in rows:
        print(json.dumps({"config": name, "topology": topology.name, **row}))


if __name__ == "__main__":
    sys.argv[:] = quote_keywords(sys.argv)
    config_flags.DEFINE_config_file("config", lock_config=True)
    flags.DEFINE_string("topology", None, "v5e:4x4, v5p:4x4x8, v6e:8x8 and the like.")
    flags.DEFINE_list("backends", ["reference", "tpu"], "Of attention.")
    flags.DEFINE_float("effort", -1.0, "Of the compiler for speed: -1 is quick, 0 that of a run.")
    flags.mark_flags_as_required(["config", "topology"])
    jax.config.update("jax_platforms", "cpu")  # whatever is here is not asked
    app.run(main)
