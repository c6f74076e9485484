"""Every benchmark that names this device's floor runs on the smallest shapes there are."""

import json
import sys

import attention
import floor
import forward
import losses
import measure
import pytest
import train_step

STEP = (
    *("--preset=vits16", "--depth=1", "--batch=16", "--prototypes=16"),
    *("--global_px=32", "--local_px=16", "--local_crops=2", "--steps=1", "--cache_dir="),
)
FIGURES = {"ms", "flops_per_s", "bytes_per_s", "floor_ms", "share_of_floor"}


@pytest.fixture
def rows(monkeypatch, capsys):
    """``rows(module, *flags)``: the JSON lines of its main function."""
    monkeypatch.setattr(measure, "REPEATS", 1)
    monkeypatch.setattr(measure, "REPEAT_S", 0.0)
    monkeypatch.setattr(floor, "SIDES", (64,))
    monkeypatch.setattr(floor, "TRIAD_BYTES", {"cpu": 2**12})

    def run(module, *flags: str) -> list[dict]:
        monkeypatch.setattr(sys, "argv", [module.__name__, *flags])
        module.main()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_attention(rows, tmp_path):
    choices = tmp_path / "choices.json"
    shape = ("--lengths=5,9", "--tokens=18", "--heads=2", "--head_dim=8", "--dtype=float32")
    found = rows(attention, *shape, "--rope", "--peers=cudnn", f"--write_choices={choices}")
    ours = [row for row in found if not row["backend"].startswith("peer")]
    assert [row["shape"] for row in ours[::2]] == [[1, 3, 5, 2, 8], [1, 2, 9, 2, 8]]
    for row in ours:
        assert row.keys() >= FIGURES
        backward = row["pass"] == "forward+backward"
        tokens = row["shape"][1] * row["tokens"]
        products = tokens * row["tokens"] * 2 * 8 * 2 * (6 if backward else 2)
        assert row["flops_per_s"] * row["ms"] / 1e3 == pytest.approx(products)
    peer = next(row for row in found if row["backend"] == "peer cudnn")
    assert "error" in peer, "a peer that cannot run says why and stops nobody"
    first, second = json.loads(choices.read_text())
    assert (first["tokens"], first["rows"], first["width"]) == (5, 3 * 2, 8)
    assert second["milliseconds"] == {ours[-1]["backend"]: ours[-1]["ms"]}, "with gradients"


def test_choices_are_of_what_models_compute(rows, tmp_path, capsys):
    with pytest.raises(SystemExit):
        rows(attention, f"--write_choices={tmp_path / 'choices.json'}")
    assert "add --rope" in capsys.readouterr().err


@pytest.mark.slow
def test_losses(rows):
    sizes = ("--images=2", "--prototypes=32", "--width=8", "--dtype=float32", "--chunk=16")
    found = rows(losses, *sizes, "--backends=whole,chunked,fused")
    assert len(found) == 4 * 3
    for row in found:
        assert row.keys() >= FIGURES
        products = 3 * row["students"] + row["teachers"]
        flops = 2 * row["rows"] * 8 * 32 * products
        assert row["flops_per_s"] * row["ms"] / 1e3 == pytest.approx(flops)


@pytest.mark.slow
def test_forward(rows):
    (row,) = rows(forward, "--preset=vits16", "--image_px=32", "--batch=8")
    assert row.keys() >= FIGURES
    assert row["images_per_s"] == pytest.approx(8e3 / row["ms"])


@pytest.mark.slow
def test_train_step(rows):
    (row,) = rows(train_step, *STEP)
    assert row.keys() >= FIGURES | {"mfu", "loss", "device_peak_mb"}
