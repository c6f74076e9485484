"""RoPE periods and tables against the reference, with and without coordinate augmentation."""

import re

import goldens
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.kernels.rope import CoordinateDraws, rope_periods, rope_tables

pytestmark = pytest.mark.golden

EVAL, TRAIN = "rope/tables_eval.npz", "rope/tables_train.npz"
DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}
BF16_STEP = 2**-8
"""From the manifest's notes, which give arrays in bf16 no tolerance of their own."""


def names(path: str, suffix: str) -> list[str]:
    return [k.removesuffix(suffix) for k in goldens.arrays(path) if k.endswith(suffix)]


def periods_of(head_dim: str, which: str, dtype: str):
    options = goldens.options(EVAL)["periods"][which]
    return rope_periods(int(head_dim.removeprefix("d")), **options, dtype=DTYPES[dtype])


def grid_of(size: str) -> tuple[int, int]:
    rows, columns = size.split("x")
    return int(rows), int(columns)


def check_tables(path: str, case: str, tables, *, atol: float | None) -> None:
    for name, table in tables._asdict().items():
        goldens.check(path, f"{case}/{name}", table[0].astype(jnp.float32), atol=atol)


@pytest.mark.parametrize("case", names(EVAL, "/periods"))
def test_periods(case):
    head_dim, which, dtype = case.split("/")
    periods = periods_of(head_dim, which, dtype)
    assert periods.dtype == DTYPES[dtype]
    if dtype == "fp32":
        goldens.check(EVAL, f"{case}/periods", periods)
    else:
        expected = goldens.arrays(EVAL)[f"{case}/periods"]
        np.testing.assert_allclose(periods.astype(jnp.float32), expected, rtol=BF16_STEP)


@pytest.mark.parametrize("case", names(EVAL, "/sin"))
def test_tables(case):
    head_dim, which, mode, dtype, size = case.split("/")
    tables = rope_tables(grid_of(size), periods_of(head_dim, which, dtype), mode=mode)
    assert tables.sin.dtype == tables.cos.dtype == DTYPES[dtype]
    check_tables(EVAL, case, tables, atol=None if dtype == "fp32" else BF16_STEP)


@pytest.mark.parametrize("case", names(TRAIN, "/sin"))
def test_augmented_tables(case):
    options, size = goldens.options(TRAIN), case.split("/")[1]
    raw = {
        re.sub("_raw$", "", name): jnp.asarray(value)[None]
        for name, value in goldens.children(TRAIN, case).items()
        if name.endswith("_raw")
    }
    spec = options["specs"][case.split("/")[0]]
    assert {f"{name}_coords" for name in raw} == set(spec)
    tables = rope_tables(
        grid_of(size),
        rope_periods(
            options["embed_dim"] // options["num_heads"], base=options["base"], dtype=jnp.float32
        ),
        mode=options["normalize_coords"],
        draws=CoordinateDraws(raw.get("shift"), raw.get("jitter"), raw.get("rescale")),
    )
    check_tables(TRAIN, case, tables, atol=None)
