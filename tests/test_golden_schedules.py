"""Both schedule families against the reference, in float64."""

import goldens
import jax
import numpy as np
import pytest

from dinojax.schedules import cosine_schedule, linear_warmup_cosine_decay

pytestmark = pytest.mark.golden

FUNCTIONS = "schedules/functions.npz"
RENAMED = {
    "base_value": "base",
    "final_value": "final",
    "total_iters": "total_steps",
    "warmup_iters": "warmup_steps",
    "start_warmup_value": "start",
    "freeze_iters": "freeze_steps",
    "warmup_iterations": "warmup_steps",
    "total_iterations": "total_steps",
    "cosine_iterations": "cosine_steps",
}
FAMILIES = {"v1": cosine_schedule, "v2": linear_warmup_cosine_decay}


@pytest.mark.parametrize("case", list(goldens.options(FUNCTIONS)))
def test_functions(case):
    options = {RENAMED.get(k, k): v for k, v in goldens.options(FUNCTIONS)[case].items()}
    options = {k: v if k.endswith("steps") else float(v) for k, v in options.items()}
    with jax.enable_x64(True):
        schedule = FAMILIES[case.split("_")[0]](**options)
        values = [float(schedule(step)) for step in range(len(goldens.arrays(FUNCTIONS)[case]))]
    np.testing.assert_allclose(values, goldens.arrays(FUNCTIONS)[case], rtol=1e-12, atol=1e-18)
