"""What is like what: patches by cosine similarity to one of them, images by that of their CLS."""

import numpy as np
from jaxtyping import Float, Int

from dinojax.precision import host_unit_rows


def cosine_map(
    patches: Float[np.ndarray, "n h w D"], image: int, row: int, column: int
) -> Float[np.ndarray, "n h w"]:
    """Of every patch of all images with one patch of one image, -1..1.

    Raises:
        ValueError: there is no such patch.
    """
    images, rows, columns, _ = patches.shape
    if not (0 <= image < images and 0 <= row < rows and 0 <= column < columns):
        raise ValueError(
            f"patch (row {row}, column {column}) of image {image} is outside {images} images of "
            f"{rows}x{columns} patches; use row {rows // 2}, column {columns // 2} for the middle"
        )
    flat = host_unit_rows(patches)
    return flat @ flat[image, row, column]


def nearest(
    queries: Float[np.ndarray, "q D"],
    gallery: Float[np.ndarray, "n D"],
    k: int,
    *,
    own: Int[np.ndarray, " q"] | None = None,
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """Places of the `k` most similar in the gallery, the most similar first, and the cosines.

    Args:
        own: the place of each query itself in the gallery, which is left out.
    """
    cosine = host_unit_rows(queries) @ host_unit_rows(gallery).T
    if own is not None:
        cosine[np.arange(len(queries)), own] = -np.inf
    order = np.argsort(-cosine, axis=1, kind="stable")[
        :, : min(k, len(gallery) - (own is not None))
    ]
    return order, np.take_along_axis(cosine, order, axis=1)
