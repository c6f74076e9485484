"""Processes that find each other, compare notes and end together; one alone needs nothing."""

import signal
import time

import hosts
import jax
import pytest

from dinojax.runtime import cluster
from dinojax.runtime.exits import PEER_LOST

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "1",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
LAUNCHERS = {*SLURM, *OPEN_MPI, cluster.JOB_INDEX, "KUBERNETES_SERVICE_HOST", "TPU_WORKER_ID"}


@pytest.fixture
def initialized(monkeypatch):
    """Arguments of the calls of `jax.distributed.initialize`, which finds nothing by itself."""
    calls = []

    def initialize(*args, **options):
        calls.append((args, options))
        if not args:
            raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    return calls


def test_one_process_joins_nobody(initialized, monkeypatch):
    cluster.start()
    assert [args for args, _ in initialized] == [()]  # JAX looked for a cluster
    cluster.start(num_processes=1)
    for env in (
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1"},  # a shell in an allocation of two tasks
        {**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    ):
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            cluster.start()
    assert len(initialized) == 1
    assert cluster.gather("anything", "x") == ["x"]
    with pytest.raises(KeyError), cluster.together("here", lambda error: 1):
        raise KeyError


def test_flags_need_no_detection(initialized, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    cluster.start("node:1234", 4, 3)
    everything = {"local_device_ids": [], "cluster_detection_method": "deactivate"}
    assert initialized == [(("node:1234", 4, 3), everything)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("node:1", None, None), "--num_processes and --process_id missing: give all of"),
        ((None, 2, None), "--coordinator and --process_id missing"),
        ((None, 2, 1), "^--coordinator missing"),
        ((None, None, 0), "--coordinator and --num_processes missing"),
        ((None, 1, 1), "--coordinator missing"),
        (("node", 2, 0), "--coordinator=node must be HOST:PORT.*localhost:12355"),
        (("node:1", 2, 2), r"--process_id=2 must lie in 0\.\.num_processes - 1.*=2; use 0"),
        (("node:1", 2, -1), "--process_id=-1 must lie"),
    ],
)
def test_half_given_flags_are_refused(initialized, given, words):
    with pytest.raises(ValueError, match=words):
        cluster.start(*given)
    assert not initialized


@pytest.mark.parametrize("env", [OPEN_MPI, SLURM, {cluster.JOB_INDEX: "3"}])
def test_processes_that_cannot_find_each_other_do_not_train_alone(initialized, monkeypatch, env):
    """As with Open MPI 5, or a Kubernetes job without JAX's extra."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"cannot find the others; .*--num_processes=1 if"):
        cluster.start()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, False),
        (SLURM, False),
        ({**SLURM, "SLURM_STEP_NUM_NODES": "2"}, True),
        (OPEN_MPI, False),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
        # mpirun starts its own daemons through SLURM, one on each node
        ({**SLURM, **OPEN_MPI, "SLURM_STEP_NUM_NODES": "2"}, False),
    ],
)
def test_a_process_alone_on_its_node_has_all_of_its_devices(env, expected):
    assert cluster.has_its_node(env) == expected


MEET = """
import os, sys, time
from dinojax.runtime import cluster
cluster.FAREWELL_S = 2
cluster.start()
import jax
with cluster.together("meet", lambda error: 7 if isinstance(error, KeyError) else 1):
    print(cluster.gather("names", f"i am {sys.argv[1]}"), jax.device_count())
    assert cluster.gather("names", "again") == ["again", "again"]
    if sys.argv[2] == sys.argv[1]:
        raise KeyError("lost")
    if sys.argv[2] == f"{sys.argv[1]} is killed":
        os.kill(os.getpid(), 9)
    if "killed" in sys.argv[2]:
        time.sleep(1)
        raise RuntimeError("connection closed by peer")  # as the collective says that misses it
    if sys.argv[2] == "both":
        raise OSError(f"of {sys.argv[1]}")
    if sys.argv[2] != "none":
        cluster.gather("never", "")  # the other one does not come
print("end")
"""


def meet(who: str, *environments: dict[str, str]) -> list[hosts.Done]:
    port = str(hosts.free_port())
    return hosts.wait(
        [
            hosts.launch(["-c", MEET, str(i), who], env={"JAX_COORDINATOR_PORT": port, **env})
            for i, env in enumerate(environments)
        ],
        timeout_s=120,
    )


def slurm(task: int) -> dict[str, str]:
    return {**SLURM, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)}


def open_mpi(rank: int) -> dict[str, str]:
    return {
        **OPEN_MPI,
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
    }


@pytest.mark.parametrize("launcher", [slurm, open_mpi])
def test_launchers_are_detected(launcher):
    for done in meet("none", launcher(0), launcher(1)):
        assert (done.code, done.out) == (0, "['i am 0', 'i am 1'] 2\nend\n"), done.err


@pytest.mark.parametrize("failing", [0, 1])
def test_all_end_with_the_one_that_fails(failing):
    start = time.monotonic()
    for done in meet(str(failing), slurm(0), slurm(1)):
        assert done.code == 7
        assert done.last_words == f"meet: process {failing}: 'lost'"
        assert "end" not in done.out and "Traceback" not in done.err
    assert time.monotonic() - start < 60


def test_an_error_that_nobody_foresaw_shows_its_traceback():
    both = meet("both", slurm(0), slurm(1))
    assert {done.code for done in both} == {1}
    (words,) = {done.last_words for done in both}  # of the one that was faster
    faster = int(words.removeprefix("meet: process ")[0])
    assert words == f"meet: process {faster}: OSError: of {faster}"
    assert "Traceback" in both[faster].err


@pytest.mark.parametrize(("killed", "codes"), [(0, {PEER_LOST, -signal.SIGABRT}), (1, {PEER_LOST})])
def test_one_that_is_killed_is_no_reason_to_give_up(killed, codes):
    """Process 0 holds the connections of all: JAX aborts the others, if it is the first to see."""
    both = meet(f"{killed} is killed", slurm(0), slurm(1))
    assert both[killed].code == -9
    assert both[1 - killed].code in codes, both[1 - killed].err
