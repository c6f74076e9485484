"""Outputs of a linear head for every pixel of whole images, through `sliding` windows."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.evaluation.dense_head import apply
from dinojax.evaluation.frames import Frame, cut
from dinojax.evaluation.head_training import Encoder
from dinojax.evaluation.ridge import LinearHead
from dinojax.evaluation.sliding import Look, Windows, join_matrix, looks
from dinojax.mesh import gather, split_batch
from dinojax.typing import Array, Bool, Float, Int, Params, UInt8

Predictor = Callable[
    [Params, LinearHead, UInt8[np.ndarray, "b H W C"], Int[np.ndarray, "b 2"]],
    Iterator[Float[Array, "H W K"]],
]
"""Yields each image's scores per pixel, with a margin up to whole `TILE`s that means nothing."""

TILE = 128
"""Images of similar sizes share a program."""


class Windowed(NamedTuple):
    """Windows of the images of a batch."""

    slot: Int[np.ndarray, " n"]
    frame: Frame
    flip: Bool[np.ndarray, " n"]


def make_predictor(encode: Encoder, windows: Windows) -> Predictor:
    """Class scores; where there are several scales or mirror images, the sum of probabilities.

    As many windows as there are images in a batch go through the encoder at a time.
    """
    side = windows.window_px

    @jax.jit
    def see(
        params: Params,
        head: LinearHead,
        canvas: UInt8[Array | np.ndarray, "b H W C"],
        size: Int[Array | np.ndarray, "b 2"],
        seen: Windowed,
    ) -> Float[Array, "n r c K"]:
        def one(slot: Array, frame: Frame, flip: Array) -> tuple[Array, Array]:
            images, sizes = jnp.asarray(canvas), jnp.asarray(size)
            return cut(images[slot], sizes[slot], frame, (side, side), flip=flip)

        crops, content = jax.vmap(one)(*split_batch(seen))
        scores = apply(head, encode(params, crops, content))
        flip = jnp.asarray(seen.flip)[:, None, None, None]
        return gather(jnp.where(flip, scores[:, :, ::-1], scores))

    def predict(
        params: Params,
        head: LinearHead,
        canvas: UInt8[np.ndarray, "b H W C"],
        size: Int[np.ndarray, "b 2"],
    ) -> Iterator[Float[Array, "H W K"]]:
        seen_by = [looks((rows, columns), windows) for rows, columns in size.tolist()]
        placed = jax.device_put((canvas, size))  # once for all windows
        outputs = iter(
            scores
            for seen, count in _parts(seen_by, len(canvas))
            for scores in np.asarray(see(params, head, *placed, seen))[:count]
        )
        for hw, of_image in zip(size.tolist(), seen_by, strict=True):
            total = None
            for look in of_image:
                grid = np.array([[next(outputs) for _ in look.lefts] for _ in look.tops])
                matrices = []
                for axis, starts in enumerate((look.tops, look.lefts)):
                    matrix = join_matrix(
                        hw[axis], look.resized[axis], starts, side, grid.shape[2 + axis]
                    )
                    beyond = -hw[axis] % TILE
                    matrices.append(np.pad(matrix, ((0, beyond), (0, 0))).astype(grid.dtype))
                scores = _join(grid, *matrices, several=len(of_image) > 1)
                total = scores if total is None else total + scores
            assert total is not None
            yield total

    return predict


def _parts(seen_by: list[list[Look]], most: int) -> Iterator[tuple[Windowed, int]]:
    """All windows in parts of `most`, the last one filled up, and how many are meant."""
    rows = [
        (slot, look.resized, (top, left), look.flip)
        for slot, of_image in enumerate(seen_by)
        for look in of_image
        for top in look.tops
        for left in look.lefts
    ]
    for first in range(0, len(rows), most):
        part = rows[first : first + most]
        full = part + part[:1] * (most - len(part))
        slot, resized, corner, flip = (np.array(column) for column in zip(*full, strict=True))
        yield Windowed(slot, Frame(resized, corner), flip), len(part)


@jax.jit(static_argnames="several")
def _join(
    grid: Float[Array | np.ndarray, "i j r c K"],
    rows: Float[Array | np.ndarray, "H ir"],
    columns: Float[Array | np.ndarray, "W jc"],
    several: bool,
) -> Float[Array, "H W K"]:
    """The scores of the windows at the pixels of the image; probabilities if `several` are to be
    added."""
    exact = jax.lax.Precision.HIGHEST
    high = jnp.asarray(rows).reshape(len(rows), grid.shape[0], -1)
    wide = jnp.asarray(columns).reshape(len(columns), grid.shape[1], -1)
    narrow = jnp.einsum("yir,ijrck->yjck", high, grid, precision=exact)
    scores = jnp.einsum("xjc,yjck->yxk", wide, narrow, precision=exact)
    return jax.nn.softmax(scores) if several else scores
