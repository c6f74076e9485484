"""Parameters before training: deviations as the reference's, or as `init_std` asks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import trees
from dinojax.models.head import DinoHead
from dinojax.models.vit import VisionTransformer
from dinojax.precision import POLICIES


@pytest.mark.parametrize("ffn_layer", ["mlp", "swiglu"])
@pytest.mark.parametrize("init_std", [None, 0.08])
def test_layers_start_at_init_std_and_nothing_else_follows_it(ffn_layer, init_std):
    changes = {} if init_std is None else {"init_std": init_std}
    model = VisionTransformer(
        128, 2, 4, POLICIES["float32"], n_storage_tokens=4, ffn_layer=ffn_layer, **changes
    )
    params = model.init(jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)))["params"]
    kernels = {k: v for k, v in trees.flatten(params).items() if k.endswith("kernel")}
    layers = {k: v for k, v in kernels.items() if k.startswith("blocks/")}
    assert len(layers) == (4 if ffn_layer == "mlp" else 5)
    for name, kernel in layers.items():
        assert np.std(kernel) == pytest.approx(init_std or 0.02, rel=0.02), name
    assert np.std(params["embed"]["storage_tokens"]) == pytest.approx(0.02, rel=0.15)


def test_dinov2_starts_its_tokens_near_zero_and_its_prototypes_with_unit_gain():
    model = VisionTransformer(128, 1, 4, POLICIES["float32"], n_storage_tokens=4, pos_embed_grid=4)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)))["params"]
    assert np.std(params["embed"]["pos_embed"]) == pytest.approx(0.02, rel=0.05)
    for name in ("cls_token", "storage_tokens"):
        assert np.std(params["embed"][name]) == pytest.approx(1e-6, rel=0.3), name
    head = DinoHead(100, POLICIES["float32"], bottleneck_dim=64, weight_norm=True)
    params = jax.jit(head.init)(jax.random.key(0), jnp.zeros((1, 8)))["params"]
    np.testing.assert_array_equal(params["last_layer_gain"], 1)
    assert np.abs(params["last_layer"]).max() == pytest.approx(1 / 8, rel=0.01)
