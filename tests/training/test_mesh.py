"""What the mesh is chosen by: the devices' own word on their memory, else their kind."""

from types import SimpleNamespace

import jax
import pytest

from dinojax.planning.topologies import CHIPS
from dinojax.training import mesh


@pytest.mark.parametrize(
    ("kind", "stats", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", {"bytes_limit": 76 * 10**9}, 76 * 10**9),
        ("NVIDIA H100 80GB HBM3", {}, CHIPS["h100"].hbm_bytes),
        ("NVIDIA H100 80GB HBM3", None, CHIPS["h100"].hbm_bytes),
        ("NVIDIA GH200 480GB", {"bytes_limit": 70 * 10**9}, 70 * 10**9),
        ("cpu", None, None),
    ],
)
def test_memory_of_devices(monkeypatch, kind, stats, expected):
    device = SimpleNamespace(device_kind=kind, memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert mesh.device_memory() == expected


def test_the_least_of_all_processes_counts(monkeypatch):
    monkeypatch.setattr(mesh, "gather", lambda name, own: ["80", "70"])
    assert mesh.device_memory() == 70
