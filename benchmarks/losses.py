"""The losses over prototypes alone, with gradients, and Sinkhorn-Knopp, of every backend.

    python benchmarks/losses.py --dtype=bfloat16 --peer
    python benchmarks/losses.py --images=4 --prototypes=4096 --dtype=float32

Shapes of the ViT-L recipe on ImageNet-1k for so many images per device: 2 global and 8 local crops,
and the masked patches of the former. *whole* keeps all logits, *chunked* some rows of them, *fused*
none (TPUs). A table on stderr, one JSON line per case on stdout.

FLOPs are those of the products that gradients need, one for each teacher row and three for each
student row, and one for Sinkhorn-Knopp; bytes those of what goes in and comes out. What a backend
makes again or keeps on the way is its own affair.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
from einops import rearrange
from floor import Floor, Work, device_name, measured_floor, seconds_of, size_of

from dinojax.kernels.linear import linear
from dinojax.losses.centering import softmax_center
from dinojax.losses.chunked import Rows, TeacherRows, chunked_dino_loss
from dinojax.losses.chunked_sinkhorn import sinkhorn_center
from dinojax.losses.dino import crop_pairs, dino_loss
from dinojax.losses.fused import fused_dino_loss, fused_sinkhorn_center
from dinojax.losses.sinkhorn import sinkhorn_knopp
from dinojax.precision import widen

MASKED = 59
"""Patches per image, of both global crops: 3771 of 64 images in the recipe."""
STUDENT, TEACHER = 0.1, 0.07
"""Temperatures."""


class Case(NamedTuple):
    """Crops of student and teacher, of so many rows each; no student crops: Sinkhorn-Knopp."""

    name: str
    students: int
    teachers: int
    rows: int
    ignore_diagonal: bool = False


def cases(images: int) -> Iterator[Case]:
    yield Case("dino", 10, 2, images, ignore_diagonal=True)
    yield Case("ibot", 1, 1, MASKED * images)
    yield Case("sinkhorn cls", 0, 2, images)
    yield Case("sinkhorn patches", 0, 1, MASKED * images)


def logits(x: jax.Array, prototypes: jax.Array) -> jax.Array:
    """As `DinoHead.to_logits`."""
    return widen(linear(x, prototypes, compute=x.dtype, tensor_axis=-1, pinned=True))


def whole_dino_loss(
    student: Rows, teacher: TeacherRows, weights: jax.Array, **options: Any
) -> tuple[jax.Array, jax.Array]:
    probs = softmax_center(logits(*teacher[:2]), teacher.center, teacher.temperature)
    return dino_loss(logits(*student), jax.lax.stop_gradient(probs), weights, **options)


def whole_sinkhorn(rows: jax.Array, prototypes: jax.Array, temperature: float) -> jax.Array:
    return sinkhorn_knopp(logits(rows, prototypes), temperature)


class Backend(NamedTuple):
    """iBOT is `loss` with one crop on each side: both cross-entropies are the same code."""

    loss: Callable[..., tuple[jax.Array, jax.Array]]
    sinkhorn: Callable[..., jax.Array]


def backends(chunk: int) -> dict[str, Backend]:
    return {
        "whole": Backend(whole_dino_loss, whole_sinkhorn),
        "chunked": Backend(
            partial(chunked_dino_loss, chunk=chunk), partial(sinkhorn_center, chunk=chunk)
        ),
        "fused": Backend(fused_dino_loss, fused_sinkhorn_center),
    }


def make_arrays(case: Case, args: argparse.Namespace) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 4)
    unit = lambda x: (x / jnp.linalg.norm(x, axis=-1, keepdims=True)).astype(args.dtype)  # noqa: E731
    normal = jax.random.normal
    return {
        "student": unit(normal(keys[0], (case.students, case.rows, args.width))),
        "teacher": unit(normal(keys[1], (case.teachers, case.rows, args.width))),
        "prototypes": normal(keys[2], (args.width, args.prototypes)),
        "targets": normal(keys[3], (args.width, args.prototypes)),
    }


def make_call(case: Case, backend: Backend, arrays: dict[str, jax.Array]) -> Callable[[], Any]:
    def sinkhorn(student, teacher, prototypes, targets):
        del student, prototypes
        columns = targets.astype(teacher.dtype)
        return backend.sinkhorn(rearrange(teacher, "V R F -> 1 (V R) F"), columns, TEACHER)

    def gradients(student, teacher, prototypes, targets):
        columns = targets.astype(teacher.dtype)
        theirs = TeacherRows(teacher, columns, jnp.zeros(targets.shape[1]), TEACHER)
        options = {"temperature": STUDENT, "ignore_diagonal": case.ignore_diagonal}
        each = jnp.ones(case.students)
        loss = lambda x, w: backend.loss(Rows(x, w), theirs, each, **options)  # noqa: E731
        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(student, prototypes)

    run = jax.jit(gradients if case.students else sinkhorn)
    return lambda: run(**arrays)


def torch_seconds(case: Case, arrays: dict[str, jax.Array]) -> float:
    """The same with all logits in PyTorch, compiled on a GPU."""
    import numpy as np
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    student, teacher, prototypes, targets = (
        torch.tensor(np.asarray(widen(x)), device=device) for x in arrays.values()
    )
    dtype = getattr(torch, arrays["teacher"].dtype.name)
    student, teacher = (x.to(dtype) for x in (student, teacher))
    pairs = crop_pairs(case.students, case.teachers, ignore_diagonal=case.ignore_diagonal)
    allowed = torch.tensor(pairs, dtype=torch.float32, device=device)

    def sinkhorn():
        q = torch.exp((teacher @ targets.to(dtype)).float().flatten(0, 1) / TEACHER)
        rows, count = q.shape
        for _ in range(3):
            q = q / (q.sum(dim=0, keepdim=True) * count)
            q = q / (q.sum(dim=1, keepdim=True) * rows)
        return q * rows

    def loss(x, w):
        with torch.no_grad():
            probs = ((teacher @ targets.to(dtype)).float() / TEACHER).softmax(dim=-1)
        log_probs = ((x @ w.to(dtype)).float() / STUDENT).log_softmax(dim=-1)
        together = torch.einsum("st,trk->srk", allowed, probs)
        return -(together * log_probs).sum() / (case.rows * allowed.sum())

    gpu = device == "cuda"
    value = torch.compile(loss) if gpu else loss
    inputs = [x.requires_grad_() for x in (student, prototypes)]

    def gradients():
        return torch.autograd.grad(value(*inputs), inputs)

    solve = torch.no_grad()(torch.compile(sinkhorn) if gpu else sinkhorn)
    wait = torch.cuda.synchronize if gpu else lambda: None
    return measure.seconds_per_call(gradients if case.students else solve, lambda _: wait())


def work(case: Case, arrays: dict[str, jax.Array]) -> Work:
    product = 2 * case.rows * arrays["targets"].size
    if case.students:
        gradients = (arrays["student"], arrays["prototypes"])
        products = 3 * case.students + case.teachers
        return Work(products * product, size_of(arrays) + size_of(gradients))
    read = (arrays["teacher"], arrays["targets"])
    return Work(case.teachers * product, size_of(read) + 4 * arrays["targets"].shape[1])


def measure_case(args: argparse.Namespace, case: Case, floor: Floor) -> Iterator[dict[str, Any]]:
    arrays = make_arrays(case, args)
    shape = {**case._asdict(), "width": args.width, "prototypes": args.prototypes}
    row = {"case": shape.pop("name"), **shape, "dtype": args.dtype, "device": device_name()}

    def figures(seconds: Callable[[], float]) -> dict[str, Any]:
        """Or why there are none: the memory may end."""
        try:
            return floor.figures(work(case, arrays), seconds())
        except Exception as error:
            return {"error": f"{type(error).__name__}: {str(error)[:200]}"}

    if args.peer:
        yield {**row, "backend": "peer torch", **figures(lambda: torch_seconds(case, arrays))}
    known = backends(args.chunk)
    for name in args.backends.split(","):
        call = make_call(case, known[name], arrays)
        yield {**row, "backend": name, **figures(lambda call=call: seconds_of(call))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64, help="per device")
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--width", type=int, default=256, help="of the bottleneck")
    parser.add_argument("--chunk", type=int, default=4096, help="train.prototype_chunk")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--backends", default=None, help="of whole,chunked,fused; default: all")
    parser.add_argument("--peer", action="store_true", help="PyTorch, too")
    args = parser.parse_args()
    if args.backends is None:
        tpu = jax.default_backend() == "tpu"
        args.backends = "whole,chunked,fused" if tpu else "whole,chunked"
    # Read when the device is first used: PyTorch needs some of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    floor = measured_floor(args.dtype)
    table = measure.Cases("case", "backend", "ms", "floor_ms", "bound", "share_of_floor", "error")
    for case in cases(args.images):
        for row in measure_case(args, case, floor):
            table.add(row)


if __name__ == "__main__":
    main()
