"""Many runs from one file, and a table of how they ended.

    python launch/sweep.py run configs/sweeps/quickstart_lr.py --workdir=runs/quickstart_lr
    python launch/sweep.py collect runs/quickstart_lr --sort=knn_trained --format=markdown

`run` checks all overrides before anything starts, leaves out finished runs and resumes the others:
here, one after the other, `--at_a_time=N`, or one on each of `--gpus=0,1`; with `--on=slurm` as an
array job (`--sbatch` for its options); with `--on=gke` as JobSets (see jobset.py). `--dry_run` only
checks and prints.

Ends with 0 if all runs here are finished or all are submitted, 1 if one has failed, 2 if the sweep
was refused.
"""

import argparse
import hashlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from collect import FORMATS, collect
from expand import Run, expand
from jobset import apply, jobset

from dinojax.runtime.atomic import replace_text

LAUNCH = Path(__file__).parent
POLL_S = 0.2


def run_here(runs: list[Run], slots: list[dict[str, str]]) -> list[Run]:
    """Start runs whenever a slot is free, each slot with its own environment; return the failed."""
    waiting, free = list(runs), list(slots)
    running: list[tuple[subprocess.Popen[bytes], Run, dict[str, str], float]] = []
    failed = []
    try:
        while waiting or running:
            while waiting and free:
                run, slot = waiting.pop(0), free.pop(0)
                print(shlex.join(run.command), flush=True)
                running.append((_start(run, slot), run, slot, time.monotonic()))
            time.sleep(POLL_S)
            ended = [entry for entry in running if entry[0].poll() is not None]
            for process, run, slot, since in ended:
                running.remove((process, run, slot, since))
                free.append(slot)
                how = "finished"
                if process.returncode:
                    failed.append(run)
                    how = f"ended with {process.returncode}, see {_log(run)}"
                print(f"{run.name}: {how}, {time.monotonic() - since:.0f} s", flush=True)
    finally:  # of an interrupt: no run outlives the sweep
        for process, *_ in running:
            process.terminate()
        for process, *_ in running:
            process.wait()
    return failed


def _start(run: Run, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    _log(run).parent.mkdir(parents=True, exist_ok=True)
    with _log(run).open("ab") as log:
        return subprocess.Popen(
            [str(LAUNCH / "local.sh"), *run.arguments],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _log(run: Run) -> Path:
    return Path(run.workdir) / "train.log"


def submit_array(runs: list[Run], pending: list[Run], given: argparse.Namespace) -> None:
    """Submit `pending` as one array job; its tasks find their arguments in a file of all `runs`.

    All: so the numbers of tasks that are queued already keep their meaning.
    """
    text = "".join("\t".join(run.arguments) + "\n" for run in runs)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    file = Path(given.workdir) / f"runs-{digest}.tsv"
    tasks = ",".join(str(i) for i, run in enumerate(runs) if run in pending)
    limit = f"%{given.at_a_time}" if given.at_a_time else ""
    array = ["--array=" + tasks + limit, "--output=%x-%A_%a.log"]
    command = ["sbatch", *array, *given.sbatch, "launch/slurm.sbatch", f"--runs={file}"]
    for line in (*(run.command for run in pending), command):
        print(shlex.join(line), flush=True)
    if not given.dry_run:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, text)
        subprocess.run(command, check=True)


def submit_jobsets(pending: list[Run], given: argparse.Namespace) -> None:
    """One JobSet per run, under a name that depends on the run: none is started twice."""
    manifests = [
        jobset(
            "dinojax-" + hashlib.blake2b(run.workdir.encode(), digest_size=6).hexdigest(),
            given.image,
            given.topology,
            run.command,
        )
        for run in pending
    ]
    for manifest in manifests:
        apply(manifest, dry_run=given.dry_run)


def run_sweep(given: argparse.Namespace) -> int:
    """Start what is left of a sweep; the exit code."""
    runs = expand(given.sweep, given.workdir)
    pending = [run for run in runs if not run.is_finished()]
    print(f"{len(runs)} runs, {len(runs) - len(pending)} of them finished", flush=True)
    if given.on == "slurm" and pending:
        submit_array(runs, pending, given)
    elif given.on == "gke":
        submit_jobsets(pending, given)
    elif given.dry_run:
        for run in pending:
            print(shlex.join(run.command))
    elif given.on == "here":
        slots = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in given.gpus]
        failed = run_here(pending, slots or [{}] * (given.at_a_time or 1))
        return 1 if failed else 0
    return 0


def print_table(given: argparse.Namespace) -> int:
    print(FORMATS[given.format](collect(given.workdir, given.sort)), end="")
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="start the runs of a sweep")
    run.set_defaults(command=run_sweep)
    run.add_argument("sweep", help="a file like configs/sweeps/quickstart_lr.py")
    run.add_argument("--workdir", required=True, help="each run gets a directory in it")
    run.add_argument("--on", choices=("here", "slurm", "gke"), default="here")
    run.add_argument("--at_a_time", type=int, metavar="N", help="runs at the same time")
    run.add_argument("--gpus", type=lambda ids: ids.split(","), default=[], metavar="ID,ID,...")
    run.add_argument("--sbatch", type=shlex.split, default=[], help="options, as one string")
    run.add_argument("--image", help="of the container")
    run.add_argument("--topology", help="e.g. v5e:4x4 or gpu:8xh200")
    run.add_argument("--dry_run", action="store_true", help="check and print only")
    table = commands.add_parser("collect", help="print a table of results")
    table.set_defaults(command=print_table)
    table.add_argument("workdir")
    table.add_argument("--sort", default="knn_trained", help="highest first; -NAME: lowest first")
    table.add_argument("--format", choices=FORMATS, default="markdown")
    given = parser.parse_args(argv)
    if given.command is run_sweep:
        if given.at_a_time is not None and given.at_a_time < 1:
            parser.error(f"--at_a_time={given.at_a_time} must be at least 1")
        if given.gpus and (given.at_a_time or given.on != "here"):
            parser.error("--gpus runs here, one run on each GPU; leave --at_a_time and --on away")
        if given.on == "gke" and not (given.image and given.topology):
            parser.error("--on=gke needs --image=IMAGE and --topology, e.g. v5e:4x4")
    return given


def main(argv: list[str]) -> int:
    given = parse(argv)
    try:
        return given.command(given)
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    # As Ctrl-C does: end the runs, then this process.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:]))
