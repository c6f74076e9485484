"""Attention alone, forward and with its gradients, of every backend that the device has.

    python benchmarks/attention.py --lengths=201,1029 --heads=16 --head_dim=64 --dtype=bfloat16 \
        --rope --peers=cudnn,tokamax,torch

A table on stderr, one JSON line per case on stdout. The peers of a case run just before our
backends, whose lines repeat their times; with `--rope` all of them rotate q and k, in the timed
call. FLOPs are those of the two products forward and the four backward, bytes those of the arrays
that go in and come out: what a kernel computes again or keeps on the way is its own affair.

`--write_choices=FILE` adds what our backends take with gradients for each shape to a table like
`dinojax/kernels/gpu_choices.json`, from which "auto" chooses; models rotate, so only with `--rope`.
"""

import argparse
import datetime
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measure
from einops import rearrange
from floor import Floor, Work, device_name, measured_floor, seconds_of

from dinojax.kernels.attention import BACKENDS, REFERENCE, attention
from dinojax.kernels.gpu_choice import Measured, choices_json, read_choices
from dinojax.kernels.on_device import platform
from dinojax.kernels.rope import RopeTables, apply_rope, rope_periods, rope_tables
from dinojax.runtime.atomic import replace_text

Attend = Callable[..., jax.Array]
"""``(q, k, v, rope) -> out``, arrays ``[G, b, N, H, d]``."""
LENGTHS = (41, 54, 201, 261, 1029, 2309)
"""Tokens of crops of 96 px (patches of 16), 98 (14), 224 (16), 224 (14), 512 and 768 px."""
PASSES = ("forward", "forward+backward")
OF_PLATFORM = {"tpu": ("tpu",), "gpu": ("cudnn", "flash", "flash_mma")}
"""Backends beside the reference that are not interpreted there."""
PEER = "peer "
"""Before the names of peers in rows."""


def of_images(function: Callable[..., jax.Array]) -> Attend:
    """From a function of ``[B, N, H, d]`` that knows no RoPE."""

    def attend(q, k, v, rope):
        if rope is not None:
            q, k = apply_rope(q, rope), apply_rope(k, rope)
        groups = len(q)
        q, k, v = (rearrange(x, "G b N H d -> (G b) N H d") for x in (q, k, v))
        return rearrange(function(q, k, v), "(G b) N H d -> G b N H d", G=groups)

    return attend


def our_backends(q: Any, rope: RopeTables | None) -> dict[str, Attend]:
    """What this device has for these arguments, by name: the one place that knows our kernels."""
    inputs = (q.shape, q.dtype, None if rope is None else rope.sin.dtype)
    names = (REFERENCE, *OF_PLATFORM.get(platform(), ()))
    return {
        name: functools.partial(attention, backend=name)
        for name in names
        if BACKENDS[name].unsupported(*inputs) is None
    }


def cudnn() -> Attend:
    return of_images(functools.partial(jax.nn.dot_product_attention, implementation="cudnn"))


def tokamax() -> Attend:
    import tokamax  # type: ignore[import-not-found]

    return of_images(tokamax.dot_product_attention)


JAX_PEERS = {"cudnn": cudnn, "tokamax": tokamax}
PEERS = (*JAX_PEERS, "torch")


def jax_call(attend: Attend, arrays: list[jax.Array], rope: Any, backward: bool) -> Callable:
    """A call of the compiled function; `arrays` are q, k, v and the gradient of the output."""

    @jax.jit
    def run(q, k, v, grad, rope):
        if not backward:
            return attend(q, k, v, rope)
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, rope), q, k, v)
        return out, pull(grad)

    return lambda: run(*arrays, rope)


def torch_seconds(shape: tuple[int, ...], dtype: str, rope: Any, backward: bool) -> float:
    """`scaled_dot_product_attention` of PyTorch; on a GPU the rotation is compiled."""
    import numpy as np
    import torch
    from torch_step import rotate

    device = "cuda" if torch.cuda.is_available() else "cpu"
    q, k, v, grad = (
        torch.randn(shape[1:], dtype=getattr(torch, dtype), device=device).transpose(1, 2)
        for _ in range(4)
    )
    tables: Any = [torch.tensor(np.asarray(t[0]), device=device) for t in rope or ()]

    def attend(q, k, v):
        if tables:
            q, k = rotate(q, tables), rotate(k, tables)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    run = torch.compile(attend) if tables and device == "cuda" else attend
    inputs = [x.requires_grad_(backward) for x in (q, k, v)]

    def call():
        out = run(*inputs)
        return torch.autograd.grad(out, inputs, grad) if backward else out

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    return measure.seconds_per_call(call, lambda _: wait())


def work(shape: tuple[int, ...], itemsize: int, backward: bool) -> Work:
    groups, rows, tokens, heads, dim = shape
    products = 2 * groups * rows * heads * tokens**2 * dim
    # Forward q, k, v and the result; backward these, its gradient and three more.
    arrays = 12 if backward else 4
    return Work(products * (6 if backward else 2), arrays * math.prod(shape) * itemsize)


def measure_case(
    args: argparse.Namespace, tokens: int, backward: bool, floor: Floor
) -> Iterator[dict[str, Any]]:
    """The rows of one number of tokens: peers first, then our backends."""
    shape = (1, max(args.tokens // tokens, 1), tokens, args.heads, args.head_dim)
    arrays = list(jax.random.normal(jax.random.key(0), (4, *shape), args.dtype))
    rope = None
    if args.rope:
        rope = rope_tables((1, tokens), rope_periods(args.head_dim, dtype=jnp.float32))
    least = work(shape, jnp.dtype(args.dtype).itemsize, backward)
    case = {
        "pass": PASSES[backward],
        "shape": shape,
        "tokens": tokens,
        "head_dim": args.head_dim,
        "dtype": args.dtype,
        "rope": args.rope,
        "device": device_name(),
    }

    def figures(seconds: Callable[[], float]) -> dict[str, Any]:
        """Or why there are none: a kernel may refuse a shape, the memory may end."""
        try:
            return floor.figures(least, seconds())
        except Exception as error:
            return {"error": f"{type(error).__name__}: {str(error)[:200]}"}

    def of_jax(attend: Attend) -> float:
        return seconds_of(jax_call(attend, arrays, rope, backward))

    peers: dict[str, float] = {}
    for name in args.peers:
        if name == "torch":
            found = figures(lambda: torch_seconds(shape, args.dtype, rope, backward))
        else:
            found = figures(lambda name=name: of_jax(JAX_PEERS[name]()))
        if "ms" in found:
            peers[name] = found["ms"]
        yield {**case, "backend": PEER + name, **found}
    for name, attend in our_backends(arrays[0], rope).items():
        if args.backends and name not in args.backends:
            continue
        found = figures(lambda attend=attend: of_jax(attend))
        if "ms" in found and peers:
            found["speed_over_peers"] = min(peers.values()) / found["ms"]
        yield {**case, "backend": name, **found, "peers_ms": peers}


def choices(rows: Iterable[dict[str, Any]], date: str) -> list[Measured]:
    """Of each shape with gradients."""
    found: dict[tuple[int, ...], Measured] = {}
    for row in rows:
        if row["pass"] != PASSES[True] or "ms" not in row or row["backend"].startswith(PEER):
            continue
        groups, images, tokens, heads, width = row["shape"]
        chip, size = jax.devices()[0].device_kind, groups * images * heads
        entry = Measured(chip, width, row["dtype"], tokens, size, {}, date)
        found.setdefault(row["shape"], entry).milliseconds[row["backend"]] = row["ms"]
    return list(found.values())


def names(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A parser of comma-separated names."""

    def parse(text: str) -> list[str]:
        given = [name for name in text.split(",") if name]
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; use some of {known}")
        return given

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
    parser.add_argument("--tokens", type=int, default=24576, help="of a batch: rows x length")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--head_dim", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--rope", action="store_true", help="rotate q and k, too")
    parser.add_argument("--backends", default="", help="only these of ours; default: all")
    parser.add_argument("--peers", type=names(PEERS), default=[], help=f"some of {PEERS}")
    parser.add_argument("--write_choices", type=Path, help="file for the times of ours")
    args = parser.parse_args()
    if args.write_choices and not args.rope:
        parser.error("--write_choices without --rope would be of another computation; add --rope")
    args.backends = [name for name in args.backends.split(",") if name]
    # Read when the device is first used: PyTorch needs some of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    floor = measured_floor(args.dtype)
    columns = ("pass", "tokens", "backend", "ms", "floor_ms", "bound", "share_of_floor")
    cases = measure.Cases(*columns, "speed_over_peers", "error")
    rows = []
    for tokens in map(int, args.lengths.split(",")):
        for backward in (False, True):
            for row in measure_case(args, tokens, backward, floor):
                cases.add(row)
                rows.append(row)
    if args.write_choices:
        today = datetime.date.today().isoformat()
        known = read_choices(args.write_choices) if args.write_choices.exists() else ()
        replace_text(args.write_choices, choices_json(known, choices(rows, today)))


if __name__ == "__main__":
    main()
