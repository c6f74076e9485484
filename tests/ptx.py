"""An interpreter of PTX in NumPy, for what Mosaic makes of a kernel: GPU code, run without a GPU.

It knows the instructions that these kernels consist of (PTX ISA 9.0, chapter 9) and no others. All
threads of a block execute an instruction together; of diverged ones, those that are furthest
behind. It is strict where a GPU is not:

- reads and writes outside of the given arrays are errors;
- so is, without a barrier between, to touch shared memory that another thread wrote, or to write
  what another one read;
- shared memory is full of NaN until it is written;
- an asynchronous copy arrives when it is waited for, and its target must not be touched before.
"""

import functools
import re
from collections.abc import Sequence

import numpy as np

Registers = dict[str, np.ndarray]
SHARED_BASE = 16
"""Where shared memory begins; no multiple of what swizzles repeat after, which must not matter."""
SHARED_BYTES = 99 << 10
"""What a block can have at most on 8.6 and 8.9."""
ALIGNMENT, GAP = 256, 1 << 20
LANES = 32
VALUE = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def run(
    ptx: str, name: str, grid: Sequence[int], threads: int, arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Run an entry for every block of `grid` (x, y, z) on copies of its parameters; the copies."""
    program = Program(ptx, name)
    memory = Memory(arrays)
    for index in np.ndindex(*reversed(grid)):
        Block(program, memory, index[::-1], threads).run()
    return memory.like(arrays)


class Program:
    """Instructions of one entry, ``(predicate, opcode, operands)``, and where its labels are."""

    def __init__(self, ptx: str, name: str):
        body = re.search(rf"\.entry {name}\(.*?\n\{{\n(.*?)\n\}}\n", ptx, re.DOTALL)
        assert body, f"no entry {name}"
        text = re.sub(r"//.*", "", body[1])
        self.instructions: list[tuple[str, str, list[str]]] = []
        self.labels: dict[str, int] = {}
        for line in re.split(r"[;\n]", re.sub(r"^(\$\w+:)", r"\1\n", text, flags=re.MULTILINE)):
            statement = line.strip()
            if statement.endswith(":"):
                self.labels[statement[:-1]] = len(self.instructions)
            elif statement and not statement.startswith("."):
                predicate, opcode, rest = re.fullmatch(r"(?:@(\S+) )?(\S+)(.*)", statement).groups()
                self.instructions.append((predicate or "", opcode, VALUE.findall(rest)))


class Memory:
    """Global memory with the arrays in it, a gap after each one."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.starts, end = [], GAP
        for array in arrays:
            self.starts.append(end)
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT + GAP
        self.bytes = np.zeros(end, np.uint8)
        self.valid = np.zeros(end, bool)
        for start, array in zip(self.starts, arrays, strict=True):
            self.bytes[start : start + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
            self.valid[start : start + array.nbytes] = True

    def like(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            self.bytes[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
            for start, array in zip(self.starts, arrays, strict=True)
        ]


class Block:
    """One block of threads: registers ``[threads]``, shared memory, and where each thread is."""

    def __init__(self, program: Program, memory: Memory, index: tuple[int, ...], threads: int):
        self.program, self.memory, self.threads = program, memory, threads
        self.shared = np.full(SHARED_BYTES, 0xFF, np.uint8)
        self.on_its_way = np.zeros(SHARED_BYTES, bool)
        self.writer, self.first_reader, self.last_reader = np.zeros((3, SHARED_BYTES), np.int16)
        self._forget()
        self.at = np.zeros(threads, np.int64)
        self.copies: list[list[tuple]] = [[]]
        self.registers: Registers = {"%tid.x": np.arange(threads, dtype=np.uint32)}
        for axis, i in zip("xyz", index, strict=True):
            self.registers[f"%ctaid.{axis}"] = np.full(threads, i, np.uint32)

    def run(self) -> None:
        instructions = self.program.instructions
        with np.errstate(all="ignore"):
            while (here := int(self.at.min())) < len(instructions):
                predicate, opcode, operands = instructions[here]
                active = self.at == here
                self.at[active] += 1
                if predicate:
                    holds = self.registers[predicate.lstrip("!")]
                    active = active & (holds ^ predicate.startswith("!"))
                base, *kinds = opcode.split(".")
                arithmetic = functools.partial(self._arithmetic, base)
                getattr(self, f"_{base}", arithmetic)(active, kinds, operands)

    # Registers and memory

    def read(self, name: str, bits: int = 32) -> np.ndarray:
        """A register, or a number, as unsigned integers."""
        if name in self.registers:
            return self.registers[name]
        if name == "__dynamic_shmem__0":
            value = SHARED_BASE
        else:
            value = int(name[2:], 16) if name.startswith(("0f", "0d")) else int(name, 0)
        return np.full(self.threads, value % (1 << bits), UNSIGNED[bits])

    def write(self, name: str, value: np.ndarray, active: np.ndarray) -> None:
        old = self.registers.get(name)
        if old is None:
            old = np.zeros(self.threads, value.dtype)
        self.registers[name] = np.where(active, value, old).astype(value.dtype)

    def address(self, operand: str) -> np.ndarray:
        register, offset = re.fullmatch(r"\[(.+?)(?:\+(-?\d+))?\]", operand).groups()
        return self.read(register, 64).astype(np.int64) + int(offset or 0)

    def load(self, at: np.ndarray, size: int, active: np.ndarray, *, shared: bool) -> np.ndarray:
        """Bytes ``[active threads, size]``."""
        where = at[active, None] + np.arange(size)
        if shared:
            where -= SHARED_BASE
            self._touch(where, active, writes=False)
            return self.shared[where]
        assert self.memory.valid[where].all(), "read outside of the arrays"
        return self.memory.bytes[where]

    def store(self, at: np.ndarray, data: np.ndarray, active: np.ndarray, *, shared: bool) -> None:
        """Bytes ``[active threads, size]``."""
        where = at[active, None] + np.arange(data.shape[1])
        if shared:
            where -= SHARED_BASE
            self._touch(where, active, writes=True)
            self.shared[where] = data
            return
        assert self.memory.valid[where].all(), "write outside of the arrays"
        self.memory.bytes[where] = data

    def _touch(self, where: np.ndarray, active: np.ndarray, *, writes: bool) -> None:
        me = np.flatnonzero(active).astype(np.int16)[:, None]
        assert not self.on_its_way[where].any(), "a copy to here is on its way"
        writer, first, last = (x[where] for x in (self.writer, self.first_reader, self.last_reader))
        assert ((writer < 0) | (writer == me)).all(), "race with a thread that wrote"
        if writes:
            assert ((last < 0) | (first == me) & (last == me)).all(), "race with a thread that read"
            self.writer[where] = me
        else:
            np.minimum.at(self.first_reader, where, me)
            np.maximum.at(self.last_reader, where, me)

    def _forget(self) -> None:
        """Who touched shared memory, as after a barrier."""
        self.writer[:], self.first_reader[:], self.last_reader[:] = -1, self.threads, -1

    # Instructions with a method of their own

    def _mov(self, active, kinds, operands):
        target, source = operands
        if kinds[-1] == "pred":
            self.write(target, self._typed(source, "pred"), active)
            return
        bits = int(kinds[-1][1:])
        if target.startswith("{"):  # split
            parts = names_in(target)
            value = self.read(source, bits)
            for i, part in enumerate(parts):
                piece = value >> np.array(i * bits // len(parts), value.dtype)
                self.write(part, piece.astype(UNSIGNED[bits // len(parts)]), active)
        elif source.startswith("{"):  # join
            total = np.zeros(self.threads, UNSIGNED[bits])
            parts = names_in(source)
            for i, part in enumerate(parts):
                piece = self.read(part, bits // len(parts)).astype(total.dtype)
                total |= piece << np.array(i * bits // len(parts), total.dtype)
            self.write(target, total, active)
        else:
            self.write(target, self.read(source, bits).astype(UNSIGNED[bits]), active)

    def _ld(self, active, kinds, operands):
        target, source = operands
        bits = int(kinds[-1][1:])
        if "param" in kinds[0]:
            index = int(re.search(r"_param_(\d+)\]", source)[1])
            self.write(target, self.read(str(self.memory.starts[index]), 64), active)
            return
        names = names_in(target)
        size, shared = len(names) * bits // 8, "shared" in kinds
        data = self.load(self.address(source), size, active, shared=shared)
        for name, column in zip(names, data.view(UNSIGNED[bits]).T, strict=True):
            self._put(name, column, active)

    def _put(self, name, values, active):
        full = np.zeros(self.threads, values.dtype)
        full[active] = values
        self.write(name, full, active)

    def _st(self, active, kinds, operands):
        target, source = operands
        bits = int(kinds[-1][1:])
        values = [self.read(name, bits)[active] for name in names_in(source)]
        data = np.stack(values, 1).astype(UNSIGNED[bits]).view(np.uint8)
        self.store(self.address(target), data, active, shared="shared" in kinds)

    def _cp(self, active, kinds, operands):
        """`cp.async`: copies in groups, which arrive when they are waited for."""
        if kinds[1] == "commit_group":
            self.copies.append([])
        elif kinds[1] == "wait_group":
            *groups, open_one = self.copies
            arrived = groups[: len(groups) - int(operands[0])]
            for at, data, threads in (copy for group in arrived for copy in group):
                self.on_its_way[at[threads, None] + np.arange(data.shape[1]) - SHARED_BASE] = False
                self.store(at, data, threads, shared=True)
            self.copies = [*groups[len(arrived) :], open_one]
        else:
            target, source, size, *given = operands
            to, there, count = self.address(target), self.address(source), int(size)
            sizes = self.read(given[0]) if given else np.full(self.threads, count)
            data = np.zeros((self.threads, count), np.uint8)
            for bytes_read in np.unique(sizes[active]):
                some = active & (sizes == bytes_read)
                data[some, :bytes_read] = self.load(there, int(bytes_read), some, shared=False)
            where = to[active, None] + np.arange(count) - SHARED_BASE
            self._touch(where, active, writes=True)
            self.on_its_way[where] = True
            self.copies[-1].append((to, data[active], active))

    def _ldmatrix(self, active, kinds, operands):
        """Four matrices 8 x 8 of 16 bits; lanes 8i to 8i + 7 say where the rows of matrix i are."""
        assert active.all()
        names = names_in(operands[0])
        rows = self.load(self.address(operands[1]), 16, active, shared=True).view(np.uint16)
        matrices = rows.reshape(-1, 4, 8, 8)  # warp, matrix, row, column
        if "trans" in kinds:
            matrices = matrices.swapaxes(2, 3)
        # Lane 4r + c gets columns 2c and 2c + 1 of row r.
        pairs = np.ascontiguousarray(matrices).view(np.uint32).reshape(-1, 4, LANES)
        for i, name in enumerate(names):
            self.write(name, pairs[:, i].reshape(-1), active)

    def _mma(self, active, kinds, operands):
        """``d = a b + c`` of a warp: 16 x 16 times 16 x 8 (PTX ISA, 'm16n8k16')."""
        assert active.all()
        assert kinds[:5] == ["sync", "aligned", "m16n8k16", "row", "col"]
        a, b, c = (np.stack([self.read(n) for n in names_in(x)], -1) for x in operands[1:])
        a, b = (from_16_bits(halves(x), kinds[6]) for x in (a, b))  # thread, register, half
        left = a.reshape(-1, 8, 4, 2, 2, 2)  # warp, row, column pair, column half, row half, -
        left = left.transpose(0, 4, 1, 3, 2, 5).reshape(-1, 16, 16)
        right = b.reshape(-1, 8, 4, 2, 2).transpose(0, 3, 2, 4, 1).reshape(-1, 16, 8)
        given = c.view(np.float32).reshape(-1, 8, 4, 2, 2).transpose(0, 3, 1, 2, 4)
        total = (given.reshape(-1, 16, 8) + left @ right).astype(np.float32)
        parts = total.reshape(-1, 2, 8, 4, 2).transpose(0, 2, 3, 1, 4).reshape(self.threads, 4)
        for name, value in zip(names_in(operands[0]), parts.T, strict=True):
            self.write(name, np.ascontiguousarray(value).view(np.uint32), active)

    def _shfl(self, active, kinds, operands):
        assert active.all()
        assert kinds[:2] == ["sync", "bfly"]
        target, source, mask, *_ = operands
        lanes = np.arange(self.threads) ^ int(mask)
        self.write(target, self.read(source)[lanes], active)

    def _setp(self, active, kinds, operands):
        target, *sources = operands
        a, b = (self._typed(x, kinds[1]) for x in sources)
        compare = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "gt": np.greater,
                   "le": np.less_equal, "ge": np.greater_equal}[kinds[0]]  # fmt: skip
        self.write(target, compare(a, b), active)

    def _selp(self, active, kinds, operands):
        target, a, b, predicate = operands
        bits = int(kinds[0][1:])
        a, b = self.read(a, bits), self.read(b, bits)
        self.write(target, np.where(self.registers[predicate], a, b), active)

    def _bra(self, active, kinds, operands):
        self.at[active] = self.program.labels[operands[0]]

    def _ret(self, active, kinds, operands):
        self.at[active] = len(self.program.instructions)

    def _bar(self, active, kinds, operands):
        """All threads run together: those that wait are never ahead of the others."""
        assert active.all(), "threads are missing at a barrier"
        self._forget()

    def _mbarrier(self, active, kinds, operands):
        assert kinds[0] == "init", "nothing waits for these barriers"

    def _cvta(self, active, kinds, operands):
        self.write(operands[0], self.read(operands[1], 64), active)

    def _cvt(self, active, kinds, operands):
        *_, to, given = kinds
        target, *sources = operands
        if to.endswith("x2"):
            high, low = (
                to_16_bits(self._typed(x, given), to[:-2]).astype(np.uint32) for x in sources
            )
            result = high << np.uint32(16) | low
        elif to == "f32":
            result = from_16_bits(self.read(sources[0], 16), given).view(np.uint32)
        else:
            result = self._typed(sources[0], given).astype(UNSIGNED[int(to[1:])])
        self.write(target, result, active)

    # The others compute with numbers of one type

    def _typed(self, name: str, kind: str) -> np.ndarray:
        if kind == "pred":
            return self.read(name).astype(bool)
        bits = int(kind[1:])
        value = self.read(name, bits).astype(UNSIGNED[bits])
        return value.view(f"f{bits // 8}") if kind[0] == "f" else value

    def _arithmetic(self, base, active, kinds, operands):
        target, *sources = operands
        kind = kinds[-1]
        if base in ("shl", "shr"):
            assert kind[0] in "bu"
            value, count = self._typed(sources[0], kind), self.read(sources[1])
            shift = np.left_shift if base == "shl" else np.right_shift
            result = shift(value, count.astype(value.dtype))
        else:
            values = [self._typed(x, kind) for x in sources]
            result = OPERATIONS[base](
                *(x.astype(np.uint64) for x in values) if "wide" in kinds else values
            )
        self.write(target, result if kind == "pred" else as_unsigned(result), active)


def _fma(a, b, c):
    if a.dtype == np.float32:  # rounded once
        return (a.astype(np.float64) * b + c).astype(np.float32)
    return a * b + c


OPERATIONS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "fma": _fma,
    "neg": np.negative,
    "max": np.maximum,
    "ex2": np.exp2,
    "lg2": np.log2,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
}


def names_in(operand: str) -> list[str]:
    return re.findall(r"[^{},\s]+", operand)


def as_unsigned(x: np.ndarray) -> np.ndarray:
    """The same bits."""
    return x.view(UNSIGNED[8 * x.itemsize])


def halves(x: np.ndarray) -> np.ndarray:
    """The two numbers of 16 bits in each of 32."""
    return np.ascontiguousarray(x.astype(np.uint32)).view(np.uint16).reshape(*x.shape, 2)


def from_16_bits(x: np.ndarray, kind: str) -> np.ndarray:
    if kind == "f16":
        return np.ascontiguousarray(x).view(np.float16).astype(np.float32)
    assert kind == "bf16", kind
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_16_bits(x: np.ndarray, kind: str) -> np.ndarray:
    if kind == "f16":
        return x.astype(np.float16).view(np.uint16)
    assert kind == "bf16", kind
    bits = x.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return np.where(np.isnan(x), 0x7FFF, rounded >> np.uint32(16)).astype(np.uint16)
