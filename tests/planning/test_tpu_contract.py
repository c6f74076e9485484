"""The communication contract in the TPU compiler's words: widths and bytes per step.

Needs libtpu (``pip install -e '.[tpu]'``) and no TPU. Fails where libtpu is missing. When the
budget changes on purpose: ``python tests/planning/test_tpu_contract.py``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BUDGET = Path(__file__).with_name("tpu_communication_budget.json")
RECIPE = [
    *("--config=configs/dinov3_vitl16_in1k.py", "--topology=v5e:2x2", "--compile", "--json"),
    *("--config.student.arch=vits16", "--config.student.depth=2"),
    *("--config.train.batch_size=32", "--config.train.draw_group_size=8"),
    *("--config.dino.head.n_prototypes=4096", "--config.ibot.head.n_prototypes=4096"),
    *("--config.dino.head.hidden_dim=512", "--config.ibot.head.hidden_dim=512"),
    *("--config.data.canvas_px=256", "--config.mesh.fsdp=2", "--config.mesh.tensor=2"),
]
WIDTH, LAYERS, TENSOR, BF16, F32 = 384, 2, 2, 2, 4
LAYER = 12 * WIDTH**2 // TENSOR
"""Weights of one layer that a device of the tensor axis uses: qkv, proj, fc1, fc2."""
PROTOTYPES = 256 * 4096 // TENSOR
HEAD = WIDTH * 512 + 512 * 512 + 512 * 256 + PROTOTYPES
PATCHES = 16 * 16 * 3 * WIDTH

pytestmark = pytest.mark.slow


def compiled() -> list[dict[str, Any]]:
    """Collectives of two layers of ViT-S on four chips, fsdp 2 x tensor 2."""
    settings = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    command = [sys.executable, "-m", "dinojax.plan", *RECIPE]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)["collectives"]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return compiled()


def test_stored_budget(rows):
    assert rows == json.loads(BUDGET.read_text())


def test_gathers_are_of_weights_in_bf16_once_per_layer_and_pass(rows):
    """To the byte: a gather of logits, activations or prototypes over tensor would add some."""
    gathers = {row["in_layer_loop"]: row for row in rows if row["kind"] == "all-gather"}
    assert len(gathers) == 2, gathers
    assert {row["dtype"] for row in gathers.values()} == {"bf16"}
    assert gathers[True]["count"] == 3 * LAYERS * 4
    assert gathers[True]["bytes"] == 3 * LAYERS * LAYER * BF16
    # Heads and patch embedding of teacher and student; the backward pass uses them again.
    assert gathers[False]["bytes"] == 2 * (2 * HEAD + PATCHES) * BF16


def test_gradients_are_reduced_in_float32(rows):
    """What is summed in bf16 are activations that tensor parallelism splits, and a maximum."""
    kinds = {"all-reduce", "reduce-scatter", "collective-permute"}
    sums = [row for row in rows if row["kind"] in kinds]
    scattered = [row for row in sums if row["kind"] != "all-reduce"]
    assert {row["dtype"] for row in scattered} == {"f32"}
    outside = {row["kind"]: row["bytes"] for row in scattered if not row["in_layer_loop"]}
    assert outside["reduce-scatter"] == 2 * PROTOTYPES * F32  # of both heads, once
    float32 = sum(row["bytes"] for row in sums if row["dtype"] == "f32")
    assert float32 >= (LAYERS * LAYER + 2 * HEAD + PATCHES) * F32


if __name__ == "__main__":
    BUDGET.write_text(json.dumps(compiled(), indent=1) + "\n")
