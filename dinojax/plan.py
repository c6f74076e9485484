"""What a run needs, before anyone rents it: no accelerator is asked.

    python -m dinojax.plan --config=configs/x.py --topology=v5e:4x4 [--compile] [--json]

Topologies: v5e:4x4, v5p:4x4x8, v6e:8x8, gpu:8xh200. ``--compile`` compiles the whole train step
with the TPU compiler (docs/plan.md). Exits with 2 if the step does not fit.
"""

import json
import sys
from collections.abc import Sequence

import jax
from absl import flags, logging
from ml_collections import config_flags

from dinojax import command, trees
from dinojax.build.flops import mean_image_flops
from dinojax.build.step import build_init
from dinojax.config import Config, parse_config
from dinojax.planning.communication import predict_collectives
from dinojax.planning.memory import high_points
from dinojax.planning.mesh_choice import choose_mesh, largest_resolution, shortfall
from dinojax.planning.rates import predict_rates
from dinojax.planning.report import Plan
from dinojax.planning.streams import MeshShape
from dinojax.planning.topologies import GIB, Topology, parse_topology
from dinojax.planning.tpu_compiler import QUICK, compile_for
from dinojax.training.frozen_teacher import without_teacher

TOO_LARGE = 2
"""Exit code of a step that does not fit, as of a configuration that is refused."""


def make_plan(
    config: Config, topology: Topology, *, name: str, effort: float | None = None
) -> Plan:
    """The plan of a configuration; with `effort` (-1.0 to 1.0) it is compiled, too.

    Of several resolutions the one that needs the most memory.

    Raises:
        ValueError: an impossible configuration, no mesh that fits, or no TPU compiler.
    """
    if effort is not None and not topology.is_tpu:
        raise ValueError(
            f"--compile needs a TPU topology, and {topology.name} is not; leave it out: GPUs are "
            "planned without a compiler"
        )
    choice = choose_mesh(config, topology.devices, topology.chip.hbm_bytes, fused=topology.is_tpu)
    state = jax.eval_shape(build_init(config))
    largest = largest_resolution(config, choice.shape, state, fused=topology.is_tpu)
    flops = mean_image_flops(config)
    images = config.train.steps * config.train.batch_size
    plan = {
        "config": name,
        "topology": topology,
        "parameters": {part: trees.count(tree) for part, tree in state.student.items()},
        "mesh": choice.shape._asdict(),
        "mesh_reason": choice.reason,
        "flops": flops,
        "stages": high_points(largest, choice.shape, state, fused=topology.is_tpu),
        "rates": predict_rates(topology, flops.total, images),
        "checkpoint_bytes": trees.byte_count(without_teacher(state)),
        "images": images,
    }
    if effort is None:
        return Plan(**plan, collectives=predict_collectives(largest, choice.shape, state))
    compiled = compile_for(largest, topology, choice.shape, effort)
    return Plan(
        **plan,
        collectives=compiled.collectives,
        hbm_bytes_compiled=compiled.hbm_bytes,
        compiled_fits=compiled.fits,
        compile_seconds=compiled.seconds,
    )


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        command.refuse(f"unknown arguments {list(argv[1:])}; options start with --")
    given = flags.FLAGS
    try:
        config, topology = parse_config(given.config), parse_topology(given.topology)
        name = config_flags.get_config_filename(given["config"])
        effort = given.effort if given.compile else None
        plan = make_plan(config, topology, name=name, effort=effort)
    except ValueError as error:
        logging.debug("stopped", exc_info=True)
        print(f"dinojax.plan: {error}", file=sys.stderr)
        raise SystemExit(TOO_LARGE) from error
    print(json.dumps(plan.to_json(), indent=1) if given.json else plan.to_text())
    if not plan.fits:
        hbm = topology.chip.hbm_bytes
        message = shortfall(config, MeshShape(**plan.mesh), plan.memory, hbm, fused=topology.is_tpu)
        if plan.memory.total <= hbm:
            message = f"the compiler needs {plan.hbm_bytes / GIB:.2f} of {hbm / GIB:.2f} GiB"
        print(f"dinojax.plan: {message}", file=sys.stderr)
        raise SystemExit(TOO_LARGE)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", lock_config=True)
    flags.DEFINE_string("topology", None, "v5e:4x4, v5p:4x4x8, v6e:8x8, gpu:8xh200 and the like.")
    flags.DEFINE_bool("compile", False, "Compile the train step with the TPU compiler (libtpu).")
    flags.DEFINE_float("effort", QUICK, "Of the compiler for speed: -1 is quick, 0 that of a run.")
    flags.DEFINE_bool("json", False, "Print one JSON object.")
    flags.mark_flags_as_required(["config", "topology"])
    jax.config.update("jax_platforms", "cpu")  # whatever is here is not asked
    command.run(main)
