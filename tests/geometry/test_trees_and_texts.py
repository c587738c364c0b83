import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree as scipy_tree

from jaxinterp import geometry

KEY = jax.random.key(0)


def test_tree_equals_scipy():
    distances = geometry.distance_matrix(jax.random.normal(KEY, (300, 5)))
    tree = geometry.minimum_spanning_tree(distances)
    expected = np.sort(scipy_tree(np.asarray(distances, np.float64)).data)
    np.testing.assert_allclose(np.sort(tree.lengths), expected, rtol=1e-6)
    # Every point but the root is added once, next to a point that is already there.
    assert np.array_equal(np.sort(tree.children), np.arange(1, 300))
    seen = [0]
    for parent, child in zip(tree.parents.tolist(), tree.children.tolist(), strict=True):
        assert parent in seen
        seen.append(child)


def test_masked_and_batched_trees():
    clouds = jax.random.normal(KEY, (3, 60, 4))
    valid = jnp.arange(60)[None, :] < jnp.asarray([[60], [41], [2]])
    distances = jax.vmap(geometry.distance_matrix)(clouds)
    trees = jax.vmap(geometry.minimum_spanning_tree)(distances, valid)
    assert jnp.array_equal(jnp.sum(trees.present, axis=1), jnp.asarray([59, 40, 1]))
    alone = geometry.minimum_spanning_tree(distances[1, :41, :41])
    np.testing.assert_allclose(jnp.sum(trees.lengths[1]), jnp.sum(alone.lengths), rtol=1e-6)


def test_one_point():
    tree = geometry.minimum_spanning_tree(jnp.zeros((1, 1)))
    assert tree.lengths.shape == tree.children.shape == tree.present.shape == (0,)
    result = geometry.persistent_homology_dimension(jnp.zeros((1, 1)), KEY)
    assert result.value == 0
    assert jnp.isinf(result.stderr)


def test_ties_and_gradient():
    square = jnp.asarray([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    tree = geometry.minimum_spanning_tree(geometry.distance_matrix(square))
    assert jnp.array_equal(tree.lengths, jnp.ones(3))

    def total(points):
        return jnp.sum(geometry.minimum_spanning_tree(geometry.distance_matrix(points)).lengths)

    points = jax.random.normal(KEY, (30, 2))
    # Euler: the length is homogeneous of degree one.
    np.testing.assert_allclose(jnp.sum(jax.grad(total)(points) * points), total(points), rtol=1e-4)


@pytest.mark.parametrize("power", [0.5, pytest.param(1.0, marks=pytest.mark.slow)])
def test_persistent_homology_of_a_square(power):
    # With an edge power other than one, 1 / (1 - slope) would read 4 here.
    points = jax.random.uniform(KEY, (400, 2)) @ jax.random.normal(KEY, (2, 30))
    distances = geometry.distance_matrix(points)
    result = geometry.persistent_homology_dimension(distances, KEY, power=power)
    assert abs(float(result.value) - 2) < 0.2
    assert result.stderr < 0.2


def test_persistent_homology_of_padded_texts():
    lengths = jnp.asarray([400, 200, 60])
    clouds = jax.random.uniform(KEY, (3, 400, 3))
    valid = jnp.arange(400)[None, :] < lengths[:, None]
    clouds = jnp.where(valid[:, :, None], clouds, 1e3)

    def of_text(text):
        points, mask = text
        matrix = geometry.distance_matrix(points, mask)
        return geometry.persistent_homology_dimension(matrix, KEY, valid=mask)

    many = jax.jit(lambda texts: jax.lax.map(of_text, texts))((clouds, valid))
    assert abs(float(many.value[0]) - 2.8) < 0.4
    assert abs(float(many.value[1]) - 2.8) < 0.6
    # Too short a text is flagged, not guessed.
    assert many.value[2] == 0
    assert jnp.isinf(many.stderr[2])


def test_bad_input():
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
        geometry.minimum_spanning_tree(jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match="steps"):
        geometry.persistent_homology_dimension(jnp.zeros((100, 100)), KEY, steps=2)
