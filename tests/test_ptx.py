"""The interpreter of PTX: a small program, and what it must not let pass."""

import numpy as np
import ptx
import pytest

PROGRAM = """
.visible .entry reverse(
	.param .u64 reverse_param_0,
	.param .u64 reverse_param_1
)
{
	.reg .b32 %r<9>;
	ld.param.b64 %rd1, [reverse_param_0];
	ld.param.b64 %rd2, [reverse_param_1];
	mov.u32 %r1, %tid.x;
	shl.b32 %r2, %r1, 4;
	cvt.u64.u32 %rd3, %r2;
	add.s64 %rd4, %rd1, %rd3;
	mov.b64 %rd5, __dynamic_shmem__0;
	add.s64 %rd6, %rd5, %rd3;
	cp.async.cg.shared.global [%rd6], [%rd4], 16, 16;
	cp.async.commit_group;
	cp.async.wait_group 0;
	bar.sync 0;
	xor.b32 %r3, %r2, 1008;
	cvt.u64.u32 %rd7, %r3;
	add.s64 %rd8, %rd5, %rd7;
	ld.shared.v4.b32 {%r4, %r5, %r6, %r7}, [%rd8];
	add.s64 %rd9, %rd2, %rd3;
	setp.lt.u32 %p1, %r1, 63;
	@%p1 st.global.v4.b32 [%rd9], {%r4, %r5, %r6, %r7};
	ret;
}
"""
THREADS = 64


def reverse(program=PROGRAM, pieces=THREADS):
    """Pieces of 16 bytes in the other order, all but one."""
    given = np.arange(pieces * 4, dtype=np.int32).reshape(pieces, 4)
    _, out = ptx.run(program, "reverse", (1, 1, 1), THREADS, [given, np.zeros_like(given)])
    return given, out


def test_runs_copies_barriers_and_predicates():
    given, out = reverse()
    np.testing.assert_array_equal(out[:-1], given[:0:-1])
    assert not out[-1].any()


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        ("cp.async.wait_group 0;", "", "a copy to here is on its way"),
        ("cp.async.wait_group 0;", "cp.async.wait_group 1;", "a copy to here is on its way"),
        ("bar.sync 0;", "", "race with a thread that wrote"),
        ("bar.sync 0;", "setp.lt.u32 %p2, %r1, 9;\n@%p2 bar.sync 0;", "threads are missing"),
        ("\tret;", "st.shared.b32 [%rd6], %r1;\nret;", "race with a thread that read"),
    ],
)
def test_wrong_programs_fail(line, instead, message):
    assert line in PROGRAM
    with pytest.raises(AssertionError, match=message):
        reverse(PROGRAM.replace(line, instead))


def test_what_is_not_of_an_array_is_not_touched():
    with pytest.raises(AssertionError, match="read outside of the arrays"):
        reverse(pieces=THREADS - 1)
