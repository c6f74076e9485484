"""Homographies and what is seen through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.warp import (
    grid_points,
    homography,
    project,
    rotation,
    sample,
    sample_map,
)

IMAGE = jnp.arange(24.0).reshape(4, 6, 1)


def test_four_points_move_where_they_should():
    source = np.array([[0.0, 0], [0, 10], [8, 10], [8, 0]])
    target = source + np.array([[1.0, 2], [-1, 0], [3, -2], [0.5, 0]])
    matrix = homography(source, target)
    np.testing.assert_allclose(project(jnp.asarray(matrix), jnp.asarray(source)), target, atol=1e-4)
    line = np.array([[0.0, 0], [0, 1], [0, 2], [1, 0]])
    with pytest.raises(ValueError, match="lie on a line"):
        homography(line, source)


def test_products_are_exact_on_accelerators():
    """An accelerator's default would round pixel 701 to 700."""
    program = jax.make_jaxpr(project)(jnp.eye(3), jnp.zeros((4, 2)))
    products = [one for one in program.eqns if one.primitive.name == "dot_general"]
    assert [one.params["precision"] for one in products] == [(jax.lax.Precision.HIGHEST,) * 2]


def test_rotation():
    """A quarter turn about a point: down becomes left... from x towards y."""
    matrix = rotation(jnp.pi / 2, (1.0, 2.0))
    points = jnp.array([[1.0, 2.0], [1.0, 5.0], [3.0, 2.0]])
    np.testing.assert_allclose(project(matrix, points), [[1, 2], [4, 2], [1, 0]], atol=1e-5)


def test_sampling():
    points = jnp.array([[[0.0, 0.0], [1.5, 2.25]], [[3.49, 5.0], [3.51, 0.0]]])
    values, inside = sample(IMAGE, points)
    np.testing.assert_allclose(values[..., 0], [[0, 6 * 1.5 + 2.25], [23, 0]], atol=1e-5)
    assert inside.tolist() == [[True, True], [True, False]]
    nearest = sample_map(IMAGE[..., 0], points, empty=-1)
    np.testing.assert_array_equal(nearest, [[0, 14], [23, -1]])


def test_every_pixel_is_itself():
    values, inside = sample(IMAGE, grid_points(4, 6))
    np.testing.assert_array_equal(values, IMAGE)
    assert inside.all()
