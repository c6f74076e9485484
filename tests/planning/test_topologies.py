"""What ``--topology`` says."""

import pytest

from dinojax.planning.topologies import CHIPS, chip_of, parse_topology
from dinojax.runtime.throughput import PEAK_16_BIT


@pytest.mark.parametrize(
    ("name", "devices", "hosts", "tpu"),
    [
        ("v5e:4x4", 16, 4, True),
        ("v5p:4x4x8", 128, 32, True),
        ("v6e:8x8", 64, 16, True),
        ("v5e:1x1", 1, 1, True),
        ("gpu:8xh200", 8, 1, False),
        ("gpu:12xh100", 12, 2, False),
        ("gpu:1xrtx4090", 1, 1, False),
    ],
)
def test_names(name, devices, hosts, tpu):
    topology = parse_topology(name)
    assert (topology.devices, topology.hosts, topology.is_tpu) == (devices, hosts, tpu)
    assert topology.name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "v5e",
        "v5e:4",
        "v5e:4x4x4",
        "v5p:4x4",
        "v6e:0x4",
        "v4:2x2x2",
        "gpu:8xv5e",
        "h200:8",
        "gpu:8",
    ],
)
def test_unknown_names_say_what_works(name):
    with pytest.raises(ValueError, match=r"topology '.*' is unknown; use one like v5e:4x4"):
        parse_topology(name)


def test_chips_are_those_of_the_throughput():
    assert {chip.kind for chip in CHIPS.values()} <= PEAK_16_BIT.keys()
    assert CHIPS["v5p"].peak_flops == 459e12


@pytest.mark.parametrize(
    ("kind", "chip"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100_40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ],
)
def test_device_kinds(kind, chip):
    """As `jax.Device.device_kind` spells them."""
    assert chip_of(kind) is CHIPS[chip]


def test_unknown_devices_have_no_memory_to_plan_for():
    assert chip_of("cpu") is None
    assert chip_of("TPU v2") is None
    assert chip_of("NVIDIA GeForce RTX 3060") is None
    assert chip_of("NVIDIA GH200 480GB") is None  # of 96 GB, no H200
