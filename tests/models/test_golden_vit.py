"""The ViT against both references: outputs, losses and gradients of every golden case."""

import re

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from marks import slow_but
from reference import atol_of, check_gradients, features_dict, is_dinov2, vit_from_options

from dinojax.export.names import from_torch
from dinojax.kernels.rope import CoordinateDraws
from dinojax.models.block import KeptRows
from dinojax.models.embed import resample_positions
from dinojax.models.features import CropDraws
from dinojax.models.vit import VisionTransformer

pytestmark = pytest.mark.golden

VIT3 = goldens.files("vit3/", ".state.safetensors")
DINOV2 = [
    p for p in goldens.files("dinov2/", ".state.safetensors") if "class_" in goldens.options(p)
]
COMMON = [
    f"{name}.state.safetensors"
    for name in ("vit3/base", "vit3/released", "dinov2/reg_antialias", "dinov2/swiglu_chunks")
]
"""What runs by default; the others are variants of these."""


def load(path: str):
    """Model and parameters of a golden state file."""
    options = goldens.options(path)
    model = vit_from_options(options)
    size = 2 * options["patch_size"]
    channels = options.get("in_chans", 3)
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, size, size, channels)))[
        "params"
    ]
    return model, jax.tree.map(jnp.asarray, from_torch(goldens.arrays(path), like))


def images(x: np.ndarray) -> jax.Array:
    return jnp.asarray(rearrange(x, "b c h w -> 1 b h w c"))


def projected(named: dict, proj: dict[str, np.ndarray]) -> jax.Array:
    """The golden scalar: sum over outputs of <output, proj>."""
    return sum(jnp.vdot(named[name], value) for name, value in proj.items())


@pytest.mark.parametrize("state", slow_but(COMMON, VIT3 + DINOV2))
def test_eval_forward_and_gradients(state):
    model, params = load(state)
    registers = "x_norm_regtokens" if is_dinov2(goldens.options(state)) else "x_storage_tokens"
    atol = atol_of(goldens.options(state))
    path = state.replace(".state.safetensors", ".npz")
    tags = [k.removesuffix("/loss") for k in goldens.arrays(path) if k.endswith("/loss")]
    assert tags
    for tag in tags:
        case = goldens.children(path, tag)
        masks = None if "masks" not in case else jnp.asarray(case["masks"])[None]
        proj = goldens.children(path, f"{tag}/proj")

        @jax.jit
        def run(params, x, masks=masks, proj=proj):
            def objective(params, x):
                (features,) = model.apply({"params": params}, x, masks=masks)
                named = features_dict(features, registers)
                return projected(named, proj), named

            return jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)(params, x)

        (loss, named), (grads, grad_x) = run(params, images(case["x"]))
        for name, value in named.items():
            goldens.check(path, f"{tag}/out/{name}", value, atol=atol)
        goldens.check(path, f"{tag}/loss", loss, atol=atol)
        check_gradients(path, tag, grads, atol=atol)
        if "grad_x" in case:
            value = rearrange(grad_x, "1 b h w c -> b c h w")
            goldens.check(path, f"{tag}/grad_x", value, atol=atol)


@pytest.mark.parametrize(
    "state",
    [s for s in VIT3 if "gil/x" in goldens.arrays(s.replace(".state.safetensors", ".npz"))],
)
def test_intermediate_layers(state):
    model, params = load(state)
    path = state.replace(".state.safetensors", ".npz")
    x = images(goldens.arrays(path)["gil/x"])
    grid = [side // model.patch_size for side in x.shape[2:4]]

    def run(layers, norm):
        return model.apply(
            {"params": params}, x, layers, norm=norm, method=VisionTransformer.intermediate
        )

    # get_intermediate_layers(x, n=2, return_class_token=True, return_extra_tokens=True)
    for index, features in enumerate(run(range(model.depth - 2, model.depth), True)):
        goldens.check(path, f"gil/n2_norm/{index}/patch", features.patches[0])
        goldens.check(path, f"gil/n2_norm/{index}/cls", features.cls[0])
        goldens.check(path, f"gil/n2_norm/{index}/extra", features.registers[0])
    # get_intermediate_layers(x, n=[0], reshape=True, norm=False)
    (first,) = run([0], False)
    maps = rearrange(first.patches[0], "b (r c) D -> b D r c", r=grid[0])
    goldens.check(path, "gil/idx0_reshape_nonorm/0/patch", maps)


@pytest.mark.parametrize("state", DINOV2)
def test_position_tables_and_intermediate_layers_of_dinov2(state):
    model, params = load(state)
    path = state.replace(".state.safetensors", ".npz")
    tags = [m[1] for k in goldens.arrays(path) if (m := re.fullmatch(r"(\w+)/pos_embed", k))]
    assert tags
    for tag in tags:
        x = images(goldens.arrays(path)[f"{tag}/x"])
        grid = tuple(side // model.patch_size for side in x.shape[2:4])
        table = resample_positions(
            params["embed"]["pos_embed"],
            grid,
            offset=model.interpolate_offset,
            antialias=model.interpolate_antialias,
        )
        goldens.check(path, f"{tag}/pos_embed", table[None])
        if f"{tag}/gil_n2_reshape/0/cls" not in goldens.arrays(path):
            continue
        last_two = range(model.depth - 2, model.depth)
        found = jax.jit(
            lambda params, x, layers=last_two: model.apply(
                {"params": params}, x, layers, method=VisionTransformer.intermediate
            )
        )(params, x)
        for index, features in enumerate(found):
            maps = rearrange(features.patches[0], "b (r c) D -> b D r c", r=grid[0])
            goldens.check(path, f"{tag}/gil_n2_reshape/{index}/patch", maps)
            goldens.check(path, f"{tag}/gil_n2_reshape/{index}/cls", features.cls[0])


@pytest.mark.parametrize("path", goldens.files("vit3/", ".train.npz"))
def test_train_forward_with_recorded_draws(path):
    model, params = load(path.replace(".train.npz", ".state.safetensors"))
    case = goldens.arrays(path)

    def draws(group: str) -> CropDraws:
        def rope(name):
            value = case.get(f"draws/rope_{name}_raw/{group}")
            return None if value is None else jnp.asarray(value)[:, None]

        kept = [
            jnp.asarray(case[f"draws/drop_perm{i}_kept/{group}"], jnp.int32)[:, None]
            for i in (1, 2)
        ]
        return CropDraws(
            CoordinateDraws(rope("shift"), rope("jitter"), rope("rescale")), KeptRows(*kept)
        )

    @jax.jit
    def run(params):
        def loss(params):
            features = model.apply(
                {"params": params},
                images(case["global/x"]),
                images(case["local/x"]),
                masks=jnp.asarray(case["global/masks"])[None],
                draws=(draws("group0"), draws("group1")),
            )
            total = sum(
                projected(features_dict(f), goldens.children(path, f"{tag}/proj"))
                for tag, f in zip(("global", "local"), features, strict=True)
            )
            return total, features

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, features), grads = run(params)
    for tag, feature in zip(("global", "local"), features, strict=True):
        for name, value in features_dict(feature).items():
            goldens.check(path, f"{tag}/out/{name}", value)
    goldens.check(path, "loss", loss)
    check_gradients(path, "", grads)
