"""Images seen through a projective map of the plane, for tasks that need to know it.

Points are (y, x) in pixels, with the middle of the first pixel at (0, 0).
"""

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.typing import Array, Bool, Float, Shaped, UInt8

Points = Float[Array, "*s 2"]


def grid_points(height: int, width: int) -> Float[Array, "h w 2"]:
    """The middle of every pixel."""
    return jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1) * 1.0


def project(matrix: Float[Array, "3 3"], points: Points) -> Points:
    """Where the homography `matrix` (of y, x, 1) moves the points to."""
    ones = jnp.ones_like(points[..., :1])
    # Whole pixels: an accelerator's default product would move points by up to one in 256.
    moved = jnp.matmul(
        jnp.concatenate([points, ones], -1), matrix.T, precision=jax.lax.Precision.HIGHEST
    )
    return moved[..., :2] / moved[..., 2:]


def sample(
    image: UInt8[Array, "H W C"] | Float[Array, "H W C"], points: Float[Array, "h w 2"]
) -> tuple[Float[Array, "h w C"], Bool[Array, "h w"]]:
    """Bilinear in the image, and which points lie in it; the others are 0.

    Not antialiased: for maps that do not shrink by much.
    """
    inside = _inside(points, image.shape[0], image.shape[1])
    floor = jnp.floor(points)
    share = points - floor
    low = floor.astype(jnp.int32)

    def at(down: int, right: int) -> Array:
        y = (low[..., 0] + down).clip(0, image.shape[0] - 1)
        x = (low[..., 1] + right).clip(0, image.shape[1] - 1)
        weight = (share[..., 0] if down else 1 - share[..., 0]) * (
            share[..., 1] if right else 1 - share[..., 1]
        )
        return weight[..., None] * image[y, x]

    mixed = at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)
    return jnp.where(inside[..., None], mixed, 0), inside


def sample_map(
    map: Shaped[Array, "H W"], points: Float[Array, "h w 2"], *, empty: int
) -> Shaped[Array, "h w"]:
    """The nearest pixel of a map, `empty` beyond it."""
    nearest = jnp.floor(points + 0.5).astype(jnp.int32)
    rows, columns = (nearest[..., i].clip(0, map.shape[i] - 1) for i in range(2))
    return jnp.where(_inside(points, *map.shape), map[rows, columns], empty)


def rotation(angle_rad: Array | float, centre: tuple[float, float]) -> Float[Array, "3 3"]:
    """About a point, from x towards y, as a homography."""
    cos, sin = jnp.cos(angle_rad), jnp.sin(angle_rad)
    y, x = centre
    return jnp.array(
        [
            [cos, sin, y - cos * y - sin * x],
            [-sin, cos, x + sin * y - cos * x],
            [0.0, 0.0, 1.0],
        ]
    )


def homography(
    source: Float[np.ndarray, "4 2"], target: Float[np.ndarray, "4 2"]
) -> Float[np.ndarray, "3 3"]:
    """The one that moves four points to four others.

    Raises:
        ValueError: three of the points lie on a line.
    """
    rows, right = [], []
    for (y, x), (v, u) in zip(source, target, strict=True):
        rows.append([y, x, 1, 0, 0, 0, -v * y, -v * x])
        rows.append([0, 0, 0, y, x, 1, -u * y, -u * x])
        right += [v, u]
    try:
        solution = np.linalg.solve(np.array(rows, np.float64), np.array(right, np.float64))
    except np.linalg.LinAlgError:
        raise ValueError("three of the four points lie on a line; move them apart") from None
    return np.append(solution, 1.0).reshape(3, 3)


def _inside(points: Points, height: int, width: int) -> Bool[Array, "*s"]:
    """Within the outer borders of the pixels."""
    y, x = points[..., 0], points[..., 1]
    return (y >= -0.5) & (y < height - 0.5) & (x >= -0.5) & (x < width - 0.5)
