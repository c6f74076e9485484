"""Learning-rate and weight-decay multipliers against the reference's parameter groups."""

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import without_chunk

from dinojax.export.dinov2_names import plain_name
from dinojax.export.names import from_torch, to_torch
from dinojax.models.convnext import ConvNeXt
from dinojax.models.head import DinoHead
from dinojax.models.vit import VisionTransformer
from dinojax.optim.groups import is_decayed, is_last_layer, lr_multipliers
from dinojax.precision import POLICIES

pytestmark = pytest.mark.golden

PATHS = goldens.covered("param_groups/")


def parameters_like(rows: list[dict]) -> dict:
    """Our parameters for a reference module known by names: as deep, but tiny in width."""
    names = {plain_name(r["name"]) for r in rows}
    if "last_layer.weight" in names:
        layers = [n for n in names if n.startswith("mlp.") and n.endswith("weight")]
        model = DinoHead(8, POLICIES["float32"], 4, 4, layers=len(layers))
        example = jnp.zeros((1, 4))
    elif "downsample_layers.0.0.weight" in names:
        blocks = {tuple(n.split(".")[1:3]) for n in names if n.startswith("stages.")}
        depths = tuple(sum(stage == str(s) for stage, _ in blocks) for s in range(4))
        model = ConvNeXt(depths, (4,) * 4, POLICIES["float32"])
        example = jnp.zeros((1, 1, 32, 32, 3))
    else:
        model = VisionTransformer(
            embed_dim=4,
            depth=len({n.split(".")[1] for n in names if n.startswith("blocks.")}),
            num_heads=1,
            precision=POLICIES["float32"],
            patch_size=1,
            ffn_layer="swiglu" if "blocks.0.mlp.w1.weight" in names else "mlp",
            qkv_bias="blocks.0.attn.qkv.bias" in names,
            layerscale=1e-5 if "blocks.0.ls1.gamma" in names else None,
            n_storage_tokens=int("storage_tokens" in names),
            pos_embed_grid=2 if "pos_embed" in names else None,
            untie_cls_and_patch_norms="cls_norm.weight" in names,
            untie_global_and_local_cls_norm="local_cls_norm.weight" in names,
        )
        example = jnp.zeros((1, 1, 1, 1, 3))
    return jax.eval_shape(model.init, jax.random.key(0), example)["params"]


@pytest.mark.parametrize("path", PATHS)
def test_multipliers(path):
    content = goldens.read_json(path)
    options, rows = content["options"], content["params"]
    like = parameters_like(rows)
    with jax.enable_x64(True):
        lr = lr_multipliers(
            like,
            layerwise_decay=options["lr_decay_rate"],
            patch_embed_lr_mult=options["patch_embed_lr_mult"],
        )
        # Spread each multiplier over its leaf, so that the name map splits stacked leaves.
        spread = jax.tree.map(lambda m, leaf: np.broadcast_to(np.asarray(m), leaf.shape), lr, like)

    def full(tree):
        return jax.tree.map(lambda m, leaf: np.full(leaf.shape, m), tree, like)

    ours = to_torch(spread), to_torch(full(is_decayed(like))), to_torch(full(is_last_layer(like)))
    assert set(ours[0]) == {without_chunk(row["name"]) for row in rows}
    for row in rows:
        value, decayed, last = (np.unique(tree[without_chunk(row["name"])]) for tree in ours)
        np.testing.assert_allclose(value, row["lr_mult"], rtol=1e-12, err_msg=row["name"])
        assert decayed == row["wd_mult"], row["name"]
        assert last == row["is_last_layer"], row["name"]


def test_name_map_is_a_bijection():
    rows = goldens.read_json(PATHS[0])["params"]
    like = parameters_like(rows)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), like)
    back = from_torch(to_torch(params), like)
    jax.tree.map(np.testing.assert_array_equal, back, params)
