"""The choice of a GPU's attention: from measurements, and without any."""

import jax.numpy as jnp
import pytest

from dinojax.kernels import tiles_ampere
from dinojax.kernels.gpu_choice import (
    TABLE,
    Choice,
    Measured,
    choices_json,
    choose,
    read_choices,
)

H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"


def measured(tokens, rows=64, chip=H100, width=64, dtype="bfloat16", date="2026-11-27", **ms):
    return Measured(chip, width, dtype, tokens, rows, ms, date)


ROWS = (
    measured(37, cudnn=2.0, flash=1.0, reference=3.0),
    measured(201, cudnn=1.0, flash=2.0, reference=3.0),
    measured(201, rows=1024, cudnn=2.0, flash=4.0, reference=1.5),
    measured(201, chip=A100, cudnn=3.0, flash=1.0, flash_mma=1.5, reference=2.0),
)


@pytest.mark.parametrize(
    ("shape", "backend"),
    [
        ((2, 4, 54, 8, 64), "flash"),
        ((2, 4, 118, 8, 64), "flash"),
        ((2, 4, 120, 8, 64), "cudnn"),
        ((2, 4, 2309, 8, 64), "cudnn"),
        ((2, 64, 261, 8, 64), "reference"),
    ],
)
def test_nearest_measurement_decides(shape, backend):
    assert choose(shape, jnp.bfloat16, H100, "9.0", ROWS).backend == backend


@pytest.mark.parametrize(
    ("version", "times"),
    [
        ((0, 10, 2), {"cudnn": 3.0, "reference": 2.0}),
        ((0, 12, 0), {"cudnn": 3.0, "flash_mma": 1.5, "reference": 2.0}),
    ],
)
def test_what_a_chip_cannot_run_is_not_chosen(version, times, monkeypatch):
    monkeypatch.setattr(tiles_ampere, "JAX", version)
    choice = choose((2, 4, 201, 8, 64), jnp.bfloat16, A100, "8.0", ROWS)
    why = f"ms with 201 tokens on 2026-11-27: {times}"
    assert choice == Choice(min(times, key=times.__getitem__), why)


@pytest.mark.parametrize(
    ("width", "dtype", "chip", "capability", "choice"),
    [
        (128, "bfloat16", H100, "9.0", Choice(
            "cudnn", f"{H100} with heads of 128 bfloat16 was not measured")),
        (64, "float32", H100, "9.0", Choice(
            "reference", f"{H100} with heads of 64 float32 was not measured; "
            "cudnn cannot: float32 is neither bfloat16 nor float16; "
            "flash cannot: float32 is neither bfloat16 nor float16; "
            "flash_mma cannot: float32 is neither bfloat16 nor float16")),
        (64, "float16", "NVIDIA L4", "8.9", Choice(
            "cudnn", "NVIDIA L4 with heads of 64 float16 was not measured; "
            "flash cannot: compute capability 8.9 is not 9.x (Hopper)")),
    ],
)  # fmt: skip
def test_without_a_measurement(width, dtype, chip, capability, choice, monkeypatch):
    monkeypatch.setattr(tiles_ampere, "JAX", (0, 12, 0))
    assert choose((2, 4, 201, 8, width), dtype, chip, capability, ROWS) == choice


def test_what_was_measured_alone_does_not_win_because_others_are_refused():
    """Nor does a table without anything that can run here stop the choice."""
    alone = measured(201, flash=1.0)
    shape = ((2, 4, 201, 8, 64), jnp.bfloat16, H100)
    assert choose(*shape, "10.0", [alone, ROWS[0]]).backend == "cudnn"
    why = f"{H100} with heads of 64 bfloat16 was not measured with any backend that can"
    assert choose(*shape, "10.0", [alone]).why.startswith(f"{why}; flash cannot: compute capabil")
    assert choose(*shape, "10.0", [alone]).backend == "cudnn"


def test_json_comes_back_and_newer_times_replace_those_of_the_same_backend(tmp_path):
    newer = measured(201, date="2026-12-24", cudnn=0.5, reference=2.5)
    merged = measured(201, date="2026-12-24", cudnn=0.5, flash=2.0, reference=2.5)
    path = tmp_path / "choices.json"
    path.write_text(choices_json(ROWS, [newer]))
    back = read_choices(path)
    assert [m.key for m in back] == sorted(m.key for m in ROWS)
    assert set(map(str, back)) == {str(m) for m in (ROWS[0], merged, ROWS[2], ROWS[3])}
    assert choices_json([], back) == path.read_text()


def test_the_table_on_file_is_as_it_would_be_written():
    assert TABLE.read_text() == choices_json(read_choices(), [])
