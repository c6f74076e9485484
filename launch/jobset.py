"""A run on GKE as a JobSet: fills in ``launch/gke_jobset.yaml`` and hands it to kubectl.

    python launch/jobset.py --name=vitl16 --image=IMAGE --topology=v5e:4x4 CONFIG WORKDIR \\
        [--config.key=value ...] [--dry_run]

Topologies are written as for `dinojax.plan`: v5e:4x4, v5p:4x4x8, v6e:8x8, gpu:32xh200 (8 per node).
Prints the command of each pod and the manifest; `--dry_run` leaves it at that.
"""

import argparse
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).with_name("gke_jobset.yaml")
TPUS = {"v5e": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice", "v6e": "tpu-v6e-slice"}
GPUS = {"h100": "nvidia-h100-80gb", "h200": "nvidia-h200-141gb", "b200": "nvidia-b200"}
"""What the nodes of GKE are labelled with."""
CHIPS_PER_HOST = 4
GPUS_PER_NODE = 8
PORT = 55527


def train_line(config: str, workdir: str, overrides: list[str]) -> list[str]:
    """The command that every launcher runs."""
    program = ["python", "-m", "dinojax.train"]
    return [*program, f"--config={config}", f"--workdir={workdir}", *overrides]


def jobset(name: str, image: str, topology: str, command: list[str]) -> dict[str, Any]:
    """The manifest of one run.

    Raises:
        ValueError: a name that Kubernetes would refuse, or an unknown topology.
    """
    # The longest name of a pod, NAME-hosts-0-INDEX-xxxxx, has 63 characters.
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?", name):
        raise ValueError(
            f"name={name!r} must be up to 42 lowercase letters, digits and dashes, the first a "
            "letter; use e.g. vitl16"
        )
    manifest = yaml.safe_load(TEMPLATE.read_text())
    manifest["metadata"]["name"] = name
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    hosts, pod["nodeSelector"], limits = _place(topology)
    if topology.startswith("gpu:"):
        del manifest["metadata"]["annotations"]
        # JAX would ask the Kubernetes API for these, which takes a package and a role.
        command = [
            *command,
            f"--coordinator={name}-hosts-0-0.{name}:{PORT}",
            f"--num_processes={hosts}",
            "--process_id=$(JOB_COMPLETION_INDEX)",
        ]
    job["parallelism"] = job["completions"] = hosts
    (container,) = pod["containers"]
    container |= {"image": image, "command": command, "resources": {"limits": limits}}
    return manifest


def _place(topology: str) -> tuple[int, dict[str, str], dict[str, int]]:
    """Number of hosts, labels of their nodes, and devices of each."""
    kind, _, shape = topology.partition(":")
    gpus = re.fullmatch(r"(\d+)x(\w+)", shape)
    if kind in TPUS and re.fullmatch(r"\d+x\d+(x\d+)?", shape):
        chips = math.prod(map(int, shape.split("x")))
        if chips % CHIPS_PER_HOST == 0:
            labels = {"accelerator": TPUS[kind], "topology": shape}
            labels = {f"cloud.google.com/gke-tpu-{key}": value for key, value in labels.items()}
            return chips // CHIPS_PER_HOST, labels, {"google.com/tpu": CHIPS_PER_HOST}
    elif kind == "gpu" and gpus and gpus[2] in GPUS and int(gpus[1]) % GPUS_PER_NODE == 0:
        labels = {"cloud.google.com/gke-accelerator": GPUS[gpus[2]]}
        return int(gpus[1]) // GPUS_PER_NODE, labels, {"nvidia.com/gpu": GPUS_PER_NODE}
    raise ValueError(
        f"topology={topology!r} must be one of {list(TPUS)} with a multiple of {CHIPS_PER_HOST} "
        f"chips, or a multiple of {GPUS_PER_NODE} of {list(GPUS)}; use e.g. v5e:4x4 or gpu:8xh200"
    )


def apply(manifest: dict[str, Any], *, dry_run: bool) -> None:
    """Print the command and the manifest of a run, and start it.

    Raises:
        subprocess.CalledProcessError: kubectl has refused it.
    """
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    text = yaml.safe_dump(manifest, sort_keys=False)
    print(f"---\n# {shlex.join(container['command'])}\n{text}", end="", flush=True)
    if not dry_run:
        subprocess.run(["kubectl", "apply", "--filename=-"], input=text, text=True, check=True)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for option in ("--name", "--image", "--topology"):
        parser.add_argument(option, required=True)
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("workdir", metavar="WORKDIR")
    given, overrides = parser.parse_known_args(argv)
    given.command = train_line(given.config, given.workdir, overrides)
    return given


def main(argv: list[str]) -> int:
    given = parse(argv)
    try:
        manifest = jobset(given.name, given.image, given.topology, given.command)
        apply(manifest, dry_run=given.dry_run)
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"jobset: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
