"""The command: numbers in JSON and in words, without an accelerator or its compiler."""

import json
import subprocess
import sys

import pytest

from dinojax.build.flops import build_flops
from dinojax.config import default_config, parse_config
from dinojax.config.resolutions import resolutions
from dinojax.config.shrink import shrink
from dinojax.plan import make_plan
from dinojax.planning.rates import predict_rates
from dinojax.planning.topologies import parse_topology

V5E = parse_topology("v5e:2x2")


def config(**mesh):
    config = shrink(default_config())
    config.train.batch_size, config.train.draw_group_size = 16, 2
    config.mesh.update(mesh)
    return parse_config(config)


def test_json_has_what_the_issue_names():
    given = config()
    plan = make_plan(given, V5E, name="x.py")
    found = json.loads(json.dumps(plan.to_json()))
    assert found["fits"] is True
    assert found["devices"] == 4
    assert found["hbm_bytes_per_device"] == int(15.75 * 2**30)
    assert found["hbm_bytes_predicted"] == sum(found["hbm_bytes_by_category"].values())
    assert found["hbm_bytes_compiled"] is None
    assert found["flops_per_image"] == pytest.approx(build_flops(given) / 16)
    assert sum(found["flops_per_image_by_part"].values()) == found["flops_per_image"]
    assert set(found["collectives"][0]) == {"kind", "dtype", "in_layer_loop", "count", "bytes"}
    assert found["mesh"] == {"data": 4, "fsdp": 1, "tensor": 1}
    # Parameters, teacher and two moments, 4 bytes each, and a few counters.
    state = 16 * sum(found["parameters"].values())
    assert state <= found["checkpoint_bytes"] < state + 64


def test_flops_are_those_of_the_mean_resolution():
    """Memory is that of the largest, which one step in four takes here."""
    sizes = {"crops.global_crops_size": (32, 64), "crops.local_crops_size": (16, 16)}
    given = shrink(default_config())
    given.train.steps, given.train.draw_group_size = 400, 2
    given.update_from_flattened_dict(
        {**sizes, "crops.global_local_crop_pairs_ratios": (3.0, 1.0), "data.canvas_px": 64}
    )
    small, large = (build_flops(one) for one in resolutions(parse_config(given)))
    plan = make_plan(parse_config(given), V5E, name="x").to_json()
    mean = (3 * small + large) / 4 / given.train.batch_size
    assert small < large and plan["flops_per_image"] == pytest.approx(mean)


def test_analytic_collectives_follow_the_mesh():
    """Two layers with four large weights: gathered in three passes, reduced once."""
    rows = make_plan(config(fsdp=4, tensor=1), V5E, name="x").collectives
    inside = {row["kind"]: row for row in rows if row["in_layer_loop"]}
    assert inside["all-gather"]["count"] == 3 * 2 * 4
    assert inside["reduce-scatter"]["count"] == 2 * 4
    weights = 2 * 12 * 64**2
    assert inside["all-gather"]["bytes"] == 3 * 4 * weights  # the shrunk recipe is in float32
    assert inside["reduce-scatter"]["bytes"] == 4 * weights
    replicated = make_plan(config(fsdp=1, tensor=1), V5E, name="x").collectives
    assert {row["kind"] for row in replicated} == {"all-reduce"}


def test_a_frozen_teacher_is_gathered_and_nothing_of_it_reduced():
    """Once for two students; each of them is gathered for its two passes."""
    keys = {
        "distillation.teacher": "random",
        "distillation.objective": "features",
        "distillation.backbone.embed_dim": 128,
        "distillation.backbone.depth": 3,
        "distillation.backbone.num_heads": 2,
        "distillation.students": (("a", ()), ("b", ())),
        "crops.local_crops_number": 0,
        "mesh.fsdp": 4,
        "mesh.tensor": 1,
    }
    small = shrink(default_config())
    small.train.batch_size, small.train.draw_group_size = 16, 2
    small.update_from_flattened_dict(keys)
    plan = make_plan(parse_config(small), V5E, name="x")
    inside = {row["kind"]: row for row in plan.collectives if row["in_layer_loop"]}
    assert inside["all-gather"]["count"] == 2 * 2 * 2 * 4 + 3 * 4
    assert inside["reduce-scatter"]["count"] == 2 * 2 * 4
    gathered = 2 * 2 * 2 * 12 * 64**2 + 3 * 12 * 128**2
    assert inside["all-gather"]["bytes"] == 4 * gathered
    # The checkpoint has students, their EMA and moments, and no teacher.
    students = 16 * sum(plan.parameters.values())
    assert students <= plan.checkpoint_bytes < students + 128


def test_words_say_the_same():
    plan = make_plan(config(), V5E, name="x.py")
    text = plan.to_text()
    assert "x.py on v5e:2x2: 4 devices, 1 hosts" in text
    assert "mesh data=4 x fsdp=1 x tensor=1: the least sharding" in text
    assert "of HBM: fits" in text
    assert "warning: memory and collectives are predictions" in text
    gpu = make_plan(config(), parse_topology("gpu:8xh200"), name="x.py")
    assert "JAX takes 75%" in gpu.to_text()


def test_rates():
    topology = parse_topology("v5e:4x4")
    rates = predict_rates(topology, 1e12, 1_000_000, mfu=(0.25, 0.5))
    per_second = 16 * 197e12 / 1e12
    assert rates.images_per_second == pytest.approx((per_second / 4, per_second / 2))
    assert rates.device_hours[0] == pytest.approx(16 * 1e6 / (per_second / 4) / 3600)
    assert rates.decode_cores == (2, 3)  # of 788 and 1,576 images/s at 743 each


def test_gpus_are_not_compiled_for():
    with pytest.raises(ValueError, match=r"--compile needs a TPU topology, and gpu:8xh200 is not"):
        make_plan(config(), parse_topology("gpu:8xh200"), name="x", effort=-1.0)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dinojax.plan", "--config=configs/dinov3_vitl16_in1k.py:debug"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def test_command():
    done = run("--topology=v5e:1x1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["config"] == "configs/dinov3_vitl16_in1k.py:debug"


def test_oversized_batch_fails_with_the_shortfall():
    done = run("--topology=v5e:1x1", "--config.train.batch_size=131072")
    assert done.returncode == 2
    assert "train.batch_size=131072 is predicted to need" in done.stderr
    assert "GiB more than its 15.75" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_compiler_says_what_to_install(monkeypatch):
    """As where libtpu is not installed."""
    from jax.experimental import topologies

    from dinojax.planning import tpu_compiler

    def absent(**_):
        raise RuntimeError("Unable to find libtpu")

    monkeypatch.setattr(topologies, "get_topology_desc", absent)
    with pytest.raises(ValueError, match=r"libtpu; --compile needs .*pip install 'jax\[tpu\]"):
        tpu_compiler.tpu_devices(V5E)


def test_fixed_mesh_that_does_not_fit_is_planned_all_the_same():
    """So that `--compile` can be asked about it; the verdict and the exit code say no."""
    done = run(
        *("--topology=v5e:2x2", "--config.train.batch_size=131072", "--json"),
        *("--config.mesh.data=4", "--config.mesh.fsdp=1", "--config.mesh.tensor=1"),
    )
    plan = json.loads(done.stdout)
    assert plan["mesh"] == {"data": 4, "fsdp": 1, "tensor": 1} and not plan["fits"]
    assert done.returncode == 2 and "GiB more than its 15.75" in done.stderr
