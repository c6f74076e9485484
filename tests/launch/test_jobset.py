"""Manifests for GKE: the fields of JobSet that are used, slices and nodes, what starts again."""

import sys
from pathlib import Path

import pytest
import yaml
from jobset import TEMPLATE, jobset, train_line

from dinojax.runtime.exits import RESUMABLE

LINE = train_line("configs/quickstart.py", "/shared/runs/x", ["--config.train.seed=1"])
# Of v1alpha2, and of the Job and the Pod in it; other keys would be refused or, worse, ignored.
SCHEMA = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "/metadata": {"name", "annotations", "labels", "namespace"},
    "/spec": {"failurePolicy", "replicatedJobs", "network", "successPolicy", "suspend"},
    "/spec/failurePolicy": {"maxRestarts", "rules", "restartStrategy"},
    "/spec/failurePolicy/rules": {"name", "action", "onJobFailureReasons", "targetReplicatedJobs"},
    "/spec/replicatedJobs": {"name", "replicas", "template"},
    "/spec/replicatedJobs/template": {"metadata", "spec"},
    "/spec/replicatedJobs/template/spec": {
        *("completionMode", "parallelism", "completions", "backoffLimit"),
        *("podFailurePolicy", "template"),
    },
    "/spec/replicatedJobs/template/spec/podFailurePolicy": {"rules"},
    "/spec/replicatedJobs/template/spec/podFailurePolicy/rules": {
        *("action", "onExitCodes", "onPodConditions"),
    },
}


def check(node, path: str = "") -> None:
    """Every key is one that its place in the schema has."""
    for item in node if isinstance(node, list) else [node]:
        if isinstance(item, dict) and path in SCHEMA:
            assert item.keys() <= SCHEMA[path], path
            for key, value in item.items():
                check(value, f"{path}/{key}")


def parts(manifest):
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    return job, job["template"]["spec"], container


@pytest.fixture(params=["as it stands", "v5e:4x4", "v5p:4x4x8", "gpu:32xh200"])
def manifest(request):
    if request.param == "as it stands":
        return yaml.safe_load(TEMPLATE.read_text())
    return yaml.safe_load(yaml.safe_dump(jobset("vitl16", "image", request.param, LINE)))


def test_fields(manifest):
    check(manifest)
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    job, pod, container = parts(manifest)
    assert job["parallelism"] == job["completions"] > 0
    # Required of a job with a policy for failing pods.
    assert pod["restartPolicy"] == "Never"
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert container["command"][:3] == ["python", "-m", "dinojax.train"]


def test_only_what_can_resume_starts_again(manifest):
    """Other exit codes fail the job by its policy for pods, and such a job the whole set."""
    job, pod, container = parts(manifest)
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    codes = rule["onExitCodes"]
    assert codes["operator"] == "NotIn" and set(codes["values"]) == RESUMABLE
    assert codes["containerName"] == container["name"]
    assert manifest["spec"]["failurePolicy"]["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    shared = (TEMPLATE.parent / "lib.sh").read_text()
    restarts = manifest["spec"]["failurePolicy"]["maxRestarts"]
    assert f"readonly MAX_RESTARTS={restarts}\n" in shared
    assert f"readonly GRACE_S={pod['terminationGracePeriodSeconds']}\n" in shared


@pytest.mark.parametrize(
    ("topology", "hosts", "accelerator"),
    [
        ("v5e:4x4", 4, "tpu-v5-lite-podslice"),
        ("v5p:4x4x8", 32, "tpu-v5p-slice"),
        ("v6e:8x8", 16, "tpu-v6e-slice"),
    ],
)
def test_tpu_slices(topology, hosts, accelerator):
    """TPUs know each other: the line is that of one process."""
    job, pod, container = parts(jobset("vitl16", "image", topology, LINE))
    assert job["parallelism"] == hosts
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology.partition(":")[2],
    }
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert (container["image"], container["command"]) == ("image", LINE)


def test_gpu_nodes_are_told_who_they_are():
    manifest = jobset("vitl16", "image", "gpu:32xh200", LINE)
    job, pod, container = parts(manifest)
    assert job["parallelism"] == 4
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h200-141gb"}
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    replicated = manifest["spec"]["replicatedJobs"][0]["name"]
    assert container["command"] == [
        *LINE,
        f"--coordinator=vitl16-{replicated}-0-0.vitl16:55527",
        "--num_processes=4",
        "--process_id=$(JOB_COMPLETION_INDEX)",  # filled in by Kubernetes
    ]


@pytest.mark.parametrize(
    ("name", "topology", "words"),
    [
        ("Vit_L", "v5e:4x4", "name='Vit_L' must be .* use e.g. vitl16"),
        ("v" * 43, "v5e:4x4", "up to 42"),
        ("vitl16", "v4:2x2x1", "topology='v4:2x2x1' must be .* use e.g. v5e:4x4"),
        ("vitl16", "v5e:1x1", "multiple of 4 chips"),
        ("vitl16", "gpu:4xh200", "multiple of 8"),
        ("vitl16", "gpu:8xa100", "h100"),
    ],
)
def test_refusals(name, topology, words):
    with pytest.raises(ValueError, match=words):
        jobset(name, "image", topology, LINE)


def test_the_command_line_applies_the_manifest(fakes):
    given = ["--name=n", "--image=i", "--topology=v5e:4x4", "configs/quickstart.py", "/shared/x"]
    command = [sys.executable, "launch/jobset.py", *given, "--config.train.seed=1"]
    shown = fakes.run(*command, "--dry_run")
    assert "# python -m dinojax.train --config=configs/quickstart.py --workdir=/shared/x" in (
        shown.stdout
    )
    assert not fakes.calls("kubectl")
    assert fakes.run(*command).returncode == 0
    assert fakes.calls("kubectl") == [["apply", "--filename=-"]]
    sent = yaml.safe_load(Path(f"{fakes.calls_file}.stdin").read_text())
    assert sent == yaml.safe_load(shown.stdout)
    assert parts(sent)[2]["command"][-1] == "--config.train.seed=1"
