"""What the TPU kernels move, and that the TPU compiler takes them at the shapes of the recipes."""

import functools
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from pallas_traffic import Call, recorded

from dinojax.kernels.attention import attention
from dinojax.kernels.attention_tpu import unsupported
from dinojax.kernels.attention_tpu_body import LOGITS_BYTES, tiling
from dinojax.kernels.rope import RopeTables

RECIPES = [  # groups, images of each, tokens, heads, head_dim
    (1, 44, 197, 16, 64),  # ViT-L/16 on IN-1k: what stochastic depth keeps of 64 images
    (1, 179, 37, 16, 64),
    (2, 32, 201, 32, 128),  # 7B: 256 and 112 px
    (2, 32, 261, 32, 128),
    (2, 128, 54, 32, 128),
    (1, 16, 1029, 32, 128),  # 512 px
    (1, 16, 2309, 32, 128),  # 768 px
    (1, 8, 1029, 16, 64),
    (1, 4, 2309, 16, 64),
    (1, 64, 257, 24, 64),  # DINOv2 g/14
    (1, 128, 50, 24, 64),
    (1, 64, 201, 6, 64),  # ViT-S
    (1, 64, 201, 3, 64),  # and with half of its heads on each device
]
CHIPS = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")


LONGEST = {"bfloat16": (3248, 3560), "float32": (2368, 2560)}
"""Up to so many tokens all fit VMEM, and up to so many some, as `docs/kernels.md` says: of heads of
128 and of one or an even number of 64."""


def both_ways(shape, backend="tpu", rotated=True, dtype="bfloat16"):
    """Forward and backward pass, and shapes of its inputs: heads side by side, as products are."""
    groups, images, tokens, heads, head_dim = shape
    flat = (groups, images, tokens, heads * head_dim)

    def run(q, k, v, grad, rope):
        def attend(*parts):
            return attention(*(x.reshape(shape) for x in parts), rope, backend).reshape(flat)

        out, backwards = jax.vjp(attend, q, k, v)
        return out, *backwards(grad)

    x = jax.ShapeDtypeStruct(flat, dtype)
    table: Any = jax.ShapeDtypeStruct((groups, tokens, head_dim), jnp.float32)
    return run, (x, x, x, x, RopeTables(table, table) if rotated else None)


def calls_of(shape, **options) -> list[Call]:
    run, inputs = both_ways(shape, **options)
    with recorded() as calls:
        jax.eval_shape(run, *inputs)
    return calls


@pytest.mark.parametrize("rotated", [True, False], ids=["rope", "learned"])
@pytest.mark.parametrize("shape", RECIPES, ids=str)
def test_declared_bytes_are_those_of_the_blocks(shape, rotated):
    names = []
    for call in calls_of(shape, rotated=rotated):
        assert call.declared == pytest.approx(call.moved, rel=0.01)
        names.append(call.name)
    assert names == ["attention_forward", "attention_backward"]


@pytest.mark.parametrize("shape", RECIPES, ids=str)
def test_moves_no_more_than_splash_attention_at_least_has_to(shape):
    """That reads or writes q, k, v, out and their gradients, padded to multiples of 128 tokens."""
    groups, images, tokens, heads, head_dim = shape
    padded = groups * images * (tokens + -tokens % 128) * heads * head_dim * 2
    forward, backward = calls_of(shape)
    assert forward.moved <= 4 * padded
    assert backward.moved <= 7 * padded


def test_local_crops_share_products():
    cut = tiling(images=179, tokens=37, heads=16, head_dim=64)
    assert (cut.packed, cut.rows, cut.images % cut.packed) == (3, 120, 0)
    assert tiling(images=2, tokens=37, heads=16, head_dim=64).packed == 2
    assert tiling(images=64, tokens=65, heads=16, head_dim=64).packed == 1


@pytest.mark.parametrize("tokens", [1, 63, 197, 1029, 2309, 5189])
def test_tiles_are_all_rows_once(tokens):
    cut = tiling(images=4, tokens=tokens, heads=2, head_dim=64)
    rows = [row for tile in cut.tiles for row in range(cut.rows)[tile]]
    assert rows == list(range(cut.rows))
    assert (cut.queries - 16) * cut.rows * 4 <= LOGITS_BYTES  # tiles are whole sublanes


@pytest.mark.parametrize("dtype", LONGEST)
@pytest.mark.parametrize("heads", [(1, 64), (2, 64), (16, 64), (1, 128), (32, 128)], ids=str)
def test_longest_sequences(heads, dtype):
    lengths = range(1, 2 * LONGEST[dtype][1])
    fits = [unsupported((2, 4, n, *heads), dtype, jnp.float32) is None for n in lengths]
    last = len(fits) - fits[::-1].index(True)
    assert (fits.index(False), last) == LONGEST[dtype]


@functools.cache
def device(topology: str):
    """Needs libtpu (``pip install -e '.[tpu]'``) and no TPU."""
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    found = topologies.get_topology_desc(topology_name=topology, platform="tpu")
    return Mesh([found.devices[0]], ("data",))


def compiled(shape, topology: str, backend: str, dtype: str = "bfloat16"):
    run, inputs = both_ways(shape, backend, dtype=dtype)
    mesh = device(topology)
    layout = NamedSharding(mesh, PartitionSpec())
    placed = [
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), one)
        for one in inputs
    ]
    with jax.set_mesh(mesh):
        return jax.jit(run).lower(*placed).compile()


@pytest.mark.slow
@pytest.mark.parametrize("topology", CHIPS)
@pytest.mark.parametrize("shape", RECIPES, ids=str)
def test_compiles_for(topology, shape):
    """And with nothing beside it but, where the compiler wants them, copies of what comes in."""
    memory = compiled(shape, topology, "tpu").memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes <= 1.2 * 7 * math.prod(shape) * 2


@pytest.mark.slow
def test_compiles_in_float32():
    compiled((1, 64, 201, 16, 64), CHIPS[0], "tpu", "float32")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", LONGEST)
def test_the_longest_sequences_compile(dtype):
    for tokens in LONGEST[dtype]:
        compiled((1, 2, tokens, 4, 64), CHIPS[0], "tpu", dtype)


@pytest.mark.slow
@pytest.mark.parametrize("shape", RECIPES, ids=str)
def test_moves_at_most_half_of_what_xla_does(shape):
    """XLA's attention with RoPE, as the compiler counts it for v5e."""
    moved = sum(call.moved for call in calls_of(shape))
    analysis = compiled(shape, CHIPS[0], "reference").cost_analysis()
    assert analysis is not None
    assert moved <= analysis["bytes accessed"] / 2
