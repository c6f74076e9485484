"""Several processes as one run: how they find each other, compare notes, and end together.

One process alone needs none of it and does none of it. Several are started by a launcher that JAX
knows (`jax.distributed.initialize`: SLURM, Open MPI up to version 4, TPU VMs, and indexed jobs of
Kubernetes with JAX's ``k8s`` extra) or are told by flags who they are.
"""

import contextlib
import faulthandler
import itertools
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from absl import flags, logging

# The key-value store of the processes. It has no public name; Orbax takes it from here as well.
from jax._src.distributed import global_state
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dinojax.runtime.errors import CheckpointError
from dinojax.runtime.exits import EXIT_CODES, HUNG, PEER_LOST

SIZES = ("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Number of processes, as their launcher tells each of them: the first that is set."""
JOB_INDEX = "JOB_COMPLETION_INDEX"
"""Set in the pods of an indexed Kubernetes job."""

ARRIVAL_S = 3600
"""How long processes wait for each other before a step: opening data may take one of them long. One
that has died is noticed earlier."""
POLL_S = 0.5
FAREWELL_S = 5
"""How long a process that must end waits until all others know why."""
STOP = "dinojax/stop"

_asked = itertools.count()


def define_flags() -> None:
    """Those that `start` takes, of the program that calls this."""
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, the same for all processes.")
    flags.DEFINE_integer("num_processes", None, "Processes of this run, one or more on each host.")
    flags.DEFINE_integer("process_id", None, "Which of them this is: 0 .. num_processes - 1.")


def start(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes of this run, if there are any; before any other call of JAX.

    Args:
        coordinator: ``HOST:PORT`` of process 0; the port is free there.
        num_processes: of the run; 1 alone says that there are no others.
        process_id: ``0 .. num_processes - 1``. With all three nothing is detected, and the process
            has all devices that it can see. With none the environment decides.

    Raises:
        ValueError: some of the three are missing or impossible, or a launcher started several
            processes that have no way to find each other.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    if given == {"coordinator": None, "num_processes": 1, "process_id": None}:
        return
    if any(value is not None for value in given.values()):
        _check(**given)
        logging.info("process %s of %s, coordinator %s", process_id, num_processes, coordinator)
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            local_device_ids=[],
            cluster_detection_method="deactivate",
        )
    elif not alone(os.environ):
        _detect(os.environ)


def alone(env: Mapping[str, str]) -> bool:
    """Whether a launcher says that it has started this process only.

    JAX would ask the cluster all the same: in a single SLURM task for one of the node's devices, in
    a lone Kubernetes pod for a job that does not exist.
    """
    lone_pod = "KUBERNETES_SERVICE_HOST" in env and not {JOB_INDEX, "TPU_WORKER_ID"} & set(env)
    return lone_pod or _launched(env) == 1


def has_its_node(env: Mapping[str, str]) -> bool:
    """Whether the launcher has started one process per node, which then has all devices there.

    Otherwise JAX gives the i-th process of a node the i-th GPU.
    """
    if SIZES[0] in env:
        return env.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    return SIZES[1] in env and env[SIZES[1]] == env.get("SLURM_STEP_NUM_NODES")


def gather(name: str, value: str) -> list[str]:
    """The `value` of every process, by their number; a barrier.

    All processes ask the same questions in the same order.

    Args:
        name: of the question, for messages.
    """
    client = global_state.client
    if client is None:
        return [value]
    question = f"dinojax/{next(_asked)} {name}"
    client.key_value_set(f"{question}/{global_state.process_id}", value)
    client.wait_at_barrier(question, ARRIVAL_S * 1000)
    found = {key.rpartition("/")[2]: v for key, v in client.key_value_dir_get(f"{question}/")}
    return [found[str(process)] for process in range(global_state.num_processes)]


def connect(mesh: Mesh) -> None:
    """Let the devices add something up, along each axis of the mesh and all together.

    Does nothing for one process. A network that does not carry shows here and not after minutes of
    compilation. Nor do connections have to be made later, between processes that are minutes apart:
    some transports (Gloo) give up after half a minute.

    Raises:
        RuntimeError: the sums are wrong.
    """
    if global_state.client is None:
        return
    axes, shape = mesh.axis_names, mesh.devices.shape

    def spread(*over: str) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*over))

    def add(ones):
        return ones.sum(), *(ones.sum(i) for i in range(len(axes)))

    shares = [spread(*axes[:i], *axes[i + 1 :]) for i in range(len(axes))]
    gather("connect", "")
    ones = jax.make_array_from_callback(
        shape, spread(*axes), lambda index: np.ones((1,) * len(shape))
    )
    sums = jax.jit(add, out_shardings=(spread(), *shares))(ones)
    for found, expected in zip(sums, (mesh.size, *shape), strict=True):
        if any((shard.data != expected).any() for shard in found.addressable_shards):
            raise RuntimeError(f"the devices of {mesh} add up to {found}, not to {expected}")


@contextlib.contextmanager
def together(
    program: str, exit_code: Callable[[BaseException], int]
) -> Generator[None, None, None]:
    """If the body fails in one process, all end within seconds, with its exit code and message.

    However long they would have waited for it: in a collective, for a checkpoint, for data. What
    the body finishes on its way out comes first, so that a checkpoint in the making is whole.
    Leaving the body in peace waits for the others. Alone, this does nothing.

    One that was killed cannot say so. What fails in the others then ends them with `PEER_LOST`.

    Args:
        program: first word of the message.
        exit_code: of an error; 1 is for those that nobody foresaw, whose traceback is printed.
    """
    client = global_state.client
    if client is None:
        yield
        return
    finished = threading.Event()
    watcher = threading.Thread(target=_watch, args=(client, finished), daemon=True)
    watcher.start()
    try:
        yield
        client.wait_at_barrier("dinojax/finished", ARRIVAL_S * 1000)
    except BaseException as error:
        code, text = exit_code(error), str(error)
        if code == 1:
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}".splitlines()[0]
        _say_why(client, code, f"{program}: {here()}{text}")
        watcher.join()  # ends the process
        raise
    finally:
        finished.set()
    watcher.join()


def here() -> str:
    """``process 3: `` at the start of a message; nothing where there are no others."""
    return "" if global_state.client is None else f"process {global_state.process_id}: "


def end_all(code: int, text: str) -> NoReturn:
    """End this process at once, whatever its threads do, and so all others (`together`)."""
    client = global_state.client
    if client is not None:
        _say_why(client, code, text)
        time.sleep(2 * POLL_S + FAREWELL_S)  # meanwhile `_watch` ends it, with all others
    _last_words(code, text)
    os._exit(code)


def _say_why(client: Any, code: int, text: str) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another one was faster
        client.key_value_set(f"{STOP}/why", json.dumps([code, text]))


def _last_words(code: int, text: str) -> None:
    if code == HUNG:
        faulthandler.dump_traceback()
    print(text, file=sys.stderr, flush=True)


def _watch(client: Any, finished: threading.Event) -> None:
    """End this process as soon as any has failed."""
    # Polls: a call that waits for the key itself would crash the interpreter at its end.
    while not finished.wait(POLL_S):
        try:
            told = client.key_value_dir_get(STOP)
        except jax.errors.JaxRuntimeError as error:  # JAX is about to abort this process as well
            _last_words(PEER_LOST, f"{here()}process 0 does not answer any more: {error}")
            os._exit(PEER_LOST)
        for _, value in told:
            code, text = json.loads(value)
            _last_words(code, text)
            try:
                client.wait_at_barrier(f"{STOP}/known", FAREWELL_S * 1000)
            except jax.errors.JaxRuntimeError:
                if code in (1, EXIT_CODES[CheckpointError]):  # what a lost process looks like
                    code = PEER_LOST
                    _last_words(code, f"{here()}not all processes are there any more")
            if global_state.process_id == 0:
                time.sleep(POLL_S)  # the others would lose their coordinator before they end
            sys.stdout.flush()
            os._exit(code)


def _launched(env: Mapping[str, str]) -> int | None:
    return next((int(env[name]) for name in SIZES if name in env), None)


def _detect(env: Mapping[str, str]) -> None:
    try:
        jax.distributed.initialize(local_device_ids=[] if has_its_node(env) else None)
    except ValueError as error:
        if "coordinator_address" not in str(error):
            raise
        number = _launched(env)
        if number or JOB_INDEX in env:  # each would train alone, and all in one workdir
            raise ValueError(
                f"this process is one of {number or 'an indexed Kubernetes job'}, and JAX cannot "
                "find the others; tell each --coordinator=HOST:PORT --num_processes=N "
                "--process_id=I, or --num_processes=1 if they are runs of their own"
            ) from error
        return
    logging.info(
        "process %d of %d, coordinator %s",
        *(global_state.process_id, global_state.num_processes, global_state.coordinator_address),
    )


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            f"{' and '.join(missing)} missing: give all of --coordinator=HOST:PORT, "
            "--num_processes=N and --process_id=I, or none of them where a launcher tells (SLURM, "
            "Open MPI, TPU VM), or --num_processes=1"
        )
    if not re.fullmatch(r"\S+:\d+", coordinator):
        raise ValueError(
            f"--coordinator={coordinator} must be HOST:PORT, as every process reaches process 0; "
            "use localhost:12355 on one machine"
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id={process_id} must lie in 0..num_processes - 1 with "
            f"--num_processes={num_processes}; use 0 for the process at --coordinator"
        )
