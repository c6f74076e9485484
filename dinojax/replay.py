"""Why a step was not finite: ``python -m dinojax.replay runs/x/bundles/step_41237``.

Runs the step of a replay bundle again, from the checkpoint in the bundle, and looks at all tensors
of a step that is refused again. The same number of devices of the same kind gives the same bits;
what was trained on several hosts is replayed on several hosts, by the same flags.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags, logging

from dinojax import command
from dinojax import mesh as meshes
from dinojax.build.gram import build_refresh
from dinojax.build.inputs import build_inputs
from dinojax.build.loss import build_loss, build_step_loss
from dinojax.build.step import build_init
from dinojax.config import Config
from dinojax.config.resolutions import resolution_at
from dinojax.config.students import student_configs
from dinojax.runs import open_contract
from dinojax.runtime import cluster
from dinojax.runtime.checkpoint import abstract
from dinojax.runtime.exits import STOPS, exit_code, leave
from dinojax.runtime.nonfinite import CHECKPOINT, FILE, as_json
from dinojax.runtime.rollback import Window, after_windows
from dinojax.runtime.stored_state import read_state
from dinojax.ssl.findings import Finding, make_findings
from dinojax.ssl.gram import Refresh
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.training.compiled_step import compile_step, global_batches
from dinojax.training.frozen_teacher import teacher_digest, with_teacher, without_teacher
from dinojax.training.initial_state import make_initial_state
from dinojax.training.mesh import run_mesh
from dinojax.training.safety import advance
from dinojax.training.seed_heads import FirstBatches
from dinojax.typing import Params

SHOWN = 20


def read_bundle(path: str | Path) -> dict[str, Any]:
    """The content of its file.

    Raises:
        FileNotFoundError: no bundle.
        ValueError: its file is damaged.
    """
    file = Path(path) / FILE
    if not file.exists():
        raise FileNotFoundError(
            f"{path} has no {FILE}; give a directory such as runs/x/bundles/step_41237"
        )
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); give another bundle") from error


def replay(path: str | Path) -> dict[str, Any]:
    """Run the bundle's step again: ``refused`` (was it, again), ``metrics``, ``findings``.

    Raises:
        FileNotFoundError: no bundle, or its data is gone.
        ValueError: other data than the run had, records that are gone, or devices that its batch
            does not split over.
        dinojax.runtime.errors.CheckpointError: its checkpoint cannot be read.
    """
    bundle = read_bundle(path)
    step, entries = bundle["step"], bundle["unreadable"]
    run = open_contract(bundle["run"], bundle["workdir"], entries, steps_run=step + 1)
    config = run.config
    mesh = run_mesh(config)
    devices = {"kind": mesh.devices.flat[0].device_kind, "mesh": dict(mesh.shape)}
    then = {name: bundle["devices"][name] for name in devices}
    if devices != then:
        logging.warning("%s here, %s then: the last bits may differ", devices, then)
    placement = meshes.BatchLayout(mesh, config.train.batch_size)

    def batch_of(step: int) -> dict[str, jax.Array]:
        batch, records = run.batch(step, placement.rows)
        if (batch["index"] < 0).any():
            lost = int(records[batch["index"] < 0][0])
            raise ValueError(
                f"step {step} showed {run.data.source.record_id(lost)!r}, which cannot be read "
                f"any more ({batch['problems'][-1].cause}); restore it"
            )
        return next(global_batches(iter([batch]), placement))

    with jax.set_mesh(mesh):
        first_batches = lambda count: map(batch_of, range(count))  # noqa: E731
        state = state_before(bundle, Path(path), config, mesh, first_batches)
        compiled, found, metrics, gram_teacher = {}, [], {}, None
        for i in range(int(state.step), step + 1):
            resolution = resolution_at(config, i)
            if resolution not in compiled:
                compiled[resolution] = compile_step(resolution, mesh, state)
            if i == step:
                gram_teacher = gram_teacher_to_keep(state, step, build_refresh(config.gram))
            state, metrics = compiled[resolution](state, batch_of(i))
        values = {name: float(value) for name, value in metrics.items()}
        if not values["finite"]:
            logging.warning("step %d is not finite, as then; looking at its tensors", step)
            state = before_refusal(state, step, values, gram_teacher)
            found = step_findings(resolution)(state, batch_of(step))
    return {
        "step": step,
        "refused": not values["finite"],
        "metrics": values,
        "metrics_then": {name: float(value) for name, value in bundle["metrics"].items()},
        "findings": found,
    }


def step_findings(config: Config) -> Callable[[TrainState | Students, Any], list[Finding]]:
    """What looks for them, at one resolution; of several students in one after another."""
    looks = {
        name: make_findings(build_loss(one), build_step_loss(one), build_inputs(one))
        for name, one in (student_configs(config) or {"": config}).items()
    }

    def look(state: TrainState | Students, batch: Any) -> list[Finding]:
        if isinstance(state, TrainState):
            return looks[""](state, batch)
        return [
            found._replace(name=f"{name}/{found.name}")
            for name in state.students
            for found in looks[name](state.one(name), batch)
        ]

    return look


def gram_teacher_to_keep(
    state: TrainState | Students, step: int, refresh: Refresh
) -> Params | None:
    """A copy of the Gram teacher if `step` puts another in its place, for `before_refusal`."""
    if isinstance(state, Students) or not refresh.due(step + 1):
        return None
    return jax.tree.map(jnp.copy, state.gram_teacher)


def before_refusal(
    state: TrainState | Students,
    step: int,
    metrics: Mapping[str, float],
    gram_teacher: Params | None,
) -> TrainState | Students:
    """The state before a refused step from that after it: there is no memory for both.

    Such a step changes counts alone and, where it is time to, the Gram teacher, which was
    `gram_teacher` before. Of several students only those whose step was refused are there.
    """
    state = state._replace(step=jax.device_put(jnp.int32(step), state.step.sharding))
    if isinstance(state, Students):
        refused = {n: one for n, one in state.students.items() if not metrics[f"{n}/finite"]}
        return state._replace(students=refused)
    return state if gram_teacher is None else state._replace(gram_teacher=gram_teacher)


def state_before(
    bundle: dict[str, Any], path: Path, config: Config, mesh: Any, first_batches: FirstBatches
) -> TrainState | Students:
    """The state that the replay starts from, at the step that it starts with.

    Raises:
        ValueError: the frozen teacher is another one now.
    """
    shapes = jax.eval_shape(build_init(config))
    wanted = abstract(shapes, meshes.shardings(mesh, shapes))
    if teacher_digest(config).items() - bundle["run"]["weights"].items():
        raise ValueError(
            f"distillation.teacher={config.distillation.teacher!r} holds another teacher than the "
            f"one that {path} is of; restore it"
        )
    saved = bundle["checkpoint"]
    if saved is None:
        return make_initial_state(config, wanted, first_batches)
    state = read_state(path / CHECKPOINT, without_teacher(wanted))
    state = with_teacher(state, config, wanted)
    windows = [Window(window["first"], window["end"]) for window in bundle["rollbacks"]]
    until = after_windows(saved, windows)
    return advance(state, until, build_refresh(config.gram))


def tell(result: dict[str, Any]) -> str:
    """For eyes."""
    found: list[Finding] = result["findings"]
    then, now = result["metrics_then"], result["metrics"]
    differing = [name for name in then if str(then[name]) != str(now.get(name))]
    lines = [
        f"step {result['step']}: {'not finite, as then' if result['refused'] else 'FINITE here'}; "
        + (f"other than then: {', '.join(differing)}" if differing else "all metrics as then")
    ]
    if found:
        lines.append(f"first: {found[0].name} ({found[0].stage})")
    lines += [
        f"  {one.stage:18} {one.name}  {one.nan} NaN, {one.inf} infinite of {one.size}"
        for one in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        lines.append(f"  and {len(found) - SHOWN} more")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    if len(argv) != 2:
        command.refuse("give one bundle: python -m dinojax.replay runs/x/bundles/step_41237")
    given = flags.FLAGS
    try:
        cluster.start(given.coordinator, given.num_processes, given.process_id)
        with cluster.together("dinojax.replay", exit_code):
            result = replay(argv[1])
    except STOPS as error:
        logging.debug("stopped", exc_info=True)
        print(f"dinojax.replay: {error}", file=sys.stderr)
        leave(error)
    if jax.process_index():
        return
    if given.json:
        metrics = {name: as_json(result[name]) for name in ("metrics", "metrics_then")}
        found = [one._asdict() for one in result["findings"]]
        print(json.dumps({**result, **metrics, "findings": found}, allow_nan=False))
    else:
        print(tell(result))


if __name__ == "__main__":
    flags.DEFINE_bool("json", False, "Print one JSON document.")
    cluster.define_flags()
    logging.set_verbosity(logging.WARNING)
    command.run(main)
