"""How well patches find the same place in a warped copy of their image: PCK on known warps.

A patch of the image is matched with the patch of its copy whose feature has the largest cosine; the
match is right if that patch's middle lies within alpha times the image's side of where the patch
went. The percentage of correct keypoints (PCK) is the protocol of keypoint matching (Yang and
Ramanan, 2013; SPair-71k, arXiv:1908.10543), with every patch as a keypoint and no annotation.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.evaluation.warp import grid_points, homography, project, sample
from dinojax.precision import unit_rows
from dinojax.typing import Array, Bool, Float


def draw_warp(
    seed: int, index: int, side_px: int, *, angle_deg: float, scale: float, jitter: float
) -> Float[np.ndarray, "3 3"]:
    """From points of the image to points of its copy: a turn, a zoom, and corners that move.

    Args:
        angle_deg: largest turn about the middle, either way.
        scale: largest zoom, as a factor; the smallest is one over it.
        jitter: largest move of each corner, as a share of the side.
    """
    rng = np.random.default_rng((seed, index))
    last = side_px - 1
    corners = np.array([[0, 0], [0, last], [last, last], [last, 0]], np.float64)
    angle = np.deg2rad(rng.uniform(-angle_deg, angle_deg))
    zoom = scale ** rng.uniform(-1, 1)
    turn = zoom * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    moved = (corners - last / 2) @ turn.T + last / 2
    return homography(corners, moved + side_px * rng.uniform(-jitter, jitter, (4, 2)))


@jax.jit
def see_warped(
    images: Float[Array, "b S S C"], warps: Float[Array, "b 3 3"]
) -> tuple[Float[Array, "b S S C"], Bool[Array, "b S S"]]:
    """The copies, and where there is image in them."""
    points = grid_points(images.shape[1], images.shape[2])
    back = jnp.linalg.inv(warps)
    return jax.vmap(lambda image, matrix: sample(image, project(matrix, points)))(images, back)


@jax.jit(static_argnames=("side_px", "alphas"))
def count_correct(
    patches: Float[Array, "b r c D"],
    others: Float[Array, "b r c D"],
    warps: Float[Array, "b 3 3"],
    *,
    side_px: int,
    alphas: Sequence[float],
) -> tuple[Float[Array, "b a"], Float[Array, " b"]]:
    """Of each image: right matches per alpha, and patches that have a place in the copy."""
    _, rows, columns, _ = patches.shape
    cell = jnp.array((side_px / rows, side_px / columns))
    middles = ((grid_points(rows, columns) + 0.5) * cell - 0.5).reshape(-1, 2)
    limits = side_px * jnp.array(alphas)

    def one(here: Array, there: Array, warp: Array) -> tuple[Array, Array]:
        flat = [unit_rows(x).reshape(rows * columns, -1) for x in (here, there)]
        cosines = jnp.matmul(flat[0], flat[1].T, precision=jax.lax.Precision.HIGHEST)
        goal = project(warp, middles)
        inside = ((goal > -0.5) & (goal < side_px - 0.5)).all(-1)
        off = jnp.linalg.norm(middles[cosines.argmax(-1)] - goal, axis=-1)
        right = (off[:, None] <= limits) & inside[:, None]
        return right.sum(0) * 1.0, inside.sum() * 1.0

    return jax.lax.map(lambda given: one(*given), (patches, others, warps))


def pck(
    counted: Sequence[tuple[Float[np.ndarray, "b a"], Float[np.ndarray, " b"]]],
) -> Float[np.ndarray, " a"]:
    """Shares of right matches per alpha, over the patches of all images together.

    Raises:
        ValueError: no patch stays in its image.
    """
    right = sum(part.sum(0) for part, _ in counted)
    asked = sum(part.sum() for _, part in counted)
    if not asked:
        raise ValueError("no patch stays in its image; use gentler warps")
    return np.asarray(right / asked)
