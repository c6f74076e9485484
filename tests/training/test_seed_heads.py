"""The images that new heads begin with are seen as the train step sees them."""

import jax
import jax.numpy as jnp
import pytest

from dinojax.build.step import build_init
from dinojax.config import default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.training import seed_heads


def test_products_are_those_of_the_train_step(monkeypatch):
    given = shrink(default_config())
    given.train.precision = "float32"
    given = parse_config(given)
    seen = []

    def spy(*_):
        (product,) = jax.make_jaxpr(jnp.matmul)(jnp.ones((2, 2)), jnp.ones((2, 2))).eqns
        seen.append(product.params["precision"])
        raise InterruptedError

    monkeypatch.setattr(seed_heads, "build_inputs", lambda config: lambda batch, step: None)
    monkeypatch.setattr(seed_heads, "teacher_bottlenecks", spy)
    shapes = jax.eval_shape(build_init(given))
    state = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), shapes)
    with jax.default_matmul_precision("default"), pytest.raises(InterruptedError):
        seed_heads.seed_heads(given, state, lambda count: iter([{}] * count))
    assert seen == [(jax.lax.Precision.HIGHEST,) * 2]
