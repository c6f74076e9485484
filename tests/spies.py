"""Train steps that hand over what happens inside them."""

from typing import Any

import pytest

from dinojax.build import inputs as build_inputs
from dinojax.build import step as build
from dinojax.config import Config


def noting_inputs(config: Config) -> tuple[Any, dict[str, Any]]:
    """The configuration's train step, and a dict that has its ``inputs`` while it is traced."""
    make_inputs, seen = build_inputs.build_inputs(config), {}

    def spy(batch, step):
        seen["inputs"] = make_inputs(batch, step)
        return seen["inputs"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build_inputs", lambda config: spy)
        return build.build_train_step(config), seen
