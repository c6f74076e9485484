"""Collectives of programs: written ones, and compiled ones whose traffic is known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dinojax import mesh as meshes
from dinojax.planning import hlo

TPU = """\
HloModule jit_step

%all-reduce-scatter.1 (input: f32[256,64]) -> f32[128,64] {
  %all-reduce.1 = f32[256,64]{1,0:T(8,128)} all-reduce(%input), replica_groups={{0,1},{2,3}}
}

%body (p: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %all-gather.1 = bf16[1,384,3]{2,1,0:T(8,128)(2,1)} all-gather(%x), dimensions={1}
  %ps = (f32[16,8]{1,0}, f32[16,8]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%y)
  %fusion = f32[128,64]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
}

%until (p: (s32[], bf16[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(24)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%unused (p: f32[]) -> f32[] {
  %all-reduce.9 = f32[77]{0} all-reduce(%p), to_apply=%add
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %while.1 = (s32[]) while(%t), condition=%until, body=%body, metadata={op_name="a/_layers/while"}
  %all-reduce.2 = (f32[384]{0}, bf16[1,2]{1,0}) all-reduce(%a, %b), metadata={op_name="step/norm"}
  %ag = (f32[4]{0}, f32[8]{0}) all-gather-start(%p), replica_groups=[2,2]<=[4], dimensions={0}
  %rs = f32[4]{0} reduce-scatter(%p), replica_groups=[2,4]<=[8], dimensions={0}
}
"""


def test_written_program():
    """Loops multiply, fusions around an all-reduce scatter, starts show their results only."""
    found = {(c.kind, c.dtype, c.shape): c for c in hlo.collectives(TPU)}
    assert found.keys() == {
        ("reduce-scatter", "f32", (256, 64)),
        ("all-gather", "bf16", (384, 3)),
        ("collective-permute", "f32", (16, 8)),
        ("all-reduce", "f32", (384,)),
        ("all-reduce", "bf16", (2,)),
        ("all-gather", "f32", (8,)),
        ("reduce-scatter", "f32", (4,)),
    }
    inside = {key for key, one in found.items() if one.in_layers}
    assert {shape for _, _, shape in inside} == {(256, 64), (384, 3), (16, 8)}
    assert {one.times for one in found.values() if one.in_layers} == {24}
    assert {one.times for one in found.values() if not one.in_layers} == {1}
    assert found["all-gather", "bf16", (384, 3)].bytes == 2 * 384 * 3
    assert found["reduce-scatter", "f32", (4,)].bytes == 4 * 4 * 4, "of all four parts"
    assert found["all-reduce", "f32", (384,)].source == "step/norm"


def test_summary_adds_up_by_kind_width_and_place():
    rows = hlo.summary(hlo.collectives(TPU))
    assert {
        "kind": "all-gather",
        "dtype": "bf16",
        "in_layer_loop": True,
        "count": 24,
        "bytes": 24 * 2 * 384 * 3,
    } in rows
    assert len(rows) == 7
    assert rows == sorted(rows, key=lambda row: (row["kind"], row["dtype"], row["in_layer_loop"]))


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("replica_groups={{0,1,2},{3,4,5}}, x", 3),
        ("replica_groups=[2,4]<=[8], x", 4),
        ("replica_groups=mesh['a'=2,'b'=3,'c'=4] {'a','c'}, x", 8),
        ("replica_groups=mesh['a'=2,'b'=3], device_ids=([2,2]T(1,0)) {'b'}, x", 3),
        ("nothing", 1),
    ],
)
def test_spellings_of_groups(line, size):
    assert hlo._group_size(line) == size


def test_compiled_program():
    """Rows times a split weight, five times: one gather in the loop, one sum over devices after."""
    mesh = meshes.make_mesh(data=1, fsdp=8, tensor=1)

    def step(x, weight):
        def body(x, _):
            return jnp.tanh(x @ meshes.gather(weight)), None

        return jax.lax.scan(body, x, length=5)[0].sum()

    args = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in (((16, 128), P("fsdp")), ((128, 128), P(None, "fsdp")))
    ]
    with jax.set_mesh(mesh):
        found = hlo.collectives(jax.jit(step).lower(*args).compile().as_text())
    gathers = [(c.shape, c.bytes) for c in found if c.kind == "all-gather"]
    assert gathers == [((128, 128), 4 * 128 * 128)]
    assert [(c.shape, c.times) for c in found if c.kind == "all-reduce"] == [((), 1)]
    assert not any(c.in_layers for c in found), "a loop over anything else is no layer loop"
