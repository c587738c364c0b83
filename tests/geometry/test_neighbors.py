import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from jaxinterp.geometry import (
    distance_matrix,
    first_occurrences,
    k_nearest,
    neighbor_counts,
    pair_distances,
)
from jaxinterp.geometry.neighbors import unit_and_centre

KEY = jax.random.key(0)


def oracle(points, k, metric="euclidean"):
    search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric)
    return search.fit(np.asarray(points, np.float64)).kneighbors()


@pytest.mark.parametrize(
    ("number", "width", "k"), [(40, 1, 39), (700, 3, 5), (700, 300, 5), (3000, 40, 20)]
)
def test_equals_scikit_learn(number, width, k):
    points = jax.random.normal(KEY, (number, width))
    found = k_nearest(points, k)
    distances, indices = oracle(points, k)
    np.testing.assert_allclose(found.distances, distances, rtol=2e-6)
    assert np.mean(np.asarray(found.indices) == indices) > 0.9999


def test_many_neighbors():
    points = jax.random.normal(KEY, (2500, 8))
    found = k_nearest(points, 512)
    np.testing.assert_allclose(found.distances, oracle(points, 512)[0], rtol=2e-6)


@pytest.mark.parametrize("block", [(7, 4000), (256, 900), (64, 64)])
def test_blocks_do_not_matter(block):
    points = jax.random.normal(KEY, (2100, 6))
    whole, cut = k_nearest(points, 10), k_nearest(points, 10, block=block)
    assert jnp.array_equal(whole.indices, cut.indices)
    np.testing.assert_allclose(whole.distances, cut.distances, rtol=1e-6)


def test_ties_go_to_the_lower_index():
    # Corners of a cube: 11 neighbours at distance 1, 55 at sqrt(2), far more than spare candidates.
    corners = (jnp.arange(2048)[:, None] >> jnp.arange(11)[None, :]) & 1
    points = jax.random.permutation(KEY, corners)
    exact = np.asarray(points, np.int64)
    squares = ((exact[:, None] - exact[None]) ** 2).sum(-1) * 10000 + np.arange(2048)
    np.fill_diagonal(squares, 10**12)
    expected = np.argsort(squares, axis=1)[:, :20]
    assert np.array_equal(k_nearest(points, 20).indices, expected)
    assert np.array_equal(k_nearest(points, 20, block=(100, 500)).indices, expected)


@pytest.mark.parametrize("offset", [30.0, 1000.0])
def test_far_from_the_origin(offset):
    # Distances of 0.01 at 1000: products of uncentred points have no correct digit.
    points = 0.1 * jax.random.normal(KEY, (500, 64)) + offset
    found = k_nearest(points, 5)
    distances, indices = oracle(points, 5)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-5)
    assert np.array_equal(found.indices, indices)


def test_near_duplicates_keep_their_distance():
    points = jax.random.normal(KEY, (400, 16)) * 10
    twins = points.at[:200, 0].add(1e-4)
    found = k_nearest(jnp.concatenate([points, twins[:200]]), 2)
    expected = jnp.abs(twins[:200, 0] - points[:200, 0])
    np.testing.assert_allclose(found.distances[400:, 0], expected, rtol=1e-5)
    assert jnp.array_equal(found.indices[400:, 0], jnp.arange(200))


@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1e6, 1e25])
def test_scale(scale):
    points = jax.random.normal(KEY, (300, 4))
    found, scaled = k_nearest(points, 4), k_nearest(points * scale, 4)
    np.testing.assert_allclose(scaled.distances / scale, found.distances, rtol=1e-5)


def test_duplicates_are_neighbours_and_counted():
    points = jax.random.normal(KEY, (100, 3))
    points = jnp.concatenate([points, points[:10], points[:10]])
    found = k_nearest(points, 4)
    assert jnp.all(found.distances[:10, 1] == 0)
    assert jnp.all(found.distances[:10, 2] > 0)
    assert jnp.all(found.duplicates[:10] == 2)
    assert jnp.all(found.duplicates[10:100] == 0)
    # A point is never its own neighbour, whatever its duplicates.
    assert not jnp.any(found.indices == jnp.arange(120)[:, None])


def test_first_occurrences():
    points = jax.random.randint(KEY, (500, 3), -4, 4).astype(jnp.float32)
    _, first = np.unique(np.asarray(points), axis=0, return_index=True)
    mask = np.zeros(500, bool)
    mask[first] = True
    assert np.array_equal(first_occurrences(points), mask)
    assert np.array_equal(first_occurrences(points.astype(jnp.int32)), mask)
    zeros = jnp.asarray([[0.0], [-0.0], [1.0]])
    assert np.array_equal(first_occurrences(zeros), [True, False, True])


def test_valid_rows_only():
    points = jax.random.normal(KEY, (300, 5))
    padded = jnp.concatenate([points, jnp.full((20, 5), 1e3)])
    found = k_nearest(padded, 6, valid=jnp.arange(320) < 300)
    expected = k_nearest(points, 6)
    assert jnp.array_equal(found.indices[:300], expected.indices)
    np.testing.assert_allclose(found.distances[:300], expected.distances, rtol=1e-6)
    assert jnp.all(jnp.isinf(found.distances[300:]))
    few = k_nearest(points, 6, valid=jnp.arange(300) < 4)
    assert jnp.all(jnp.isfinite(few.distances[:4, :3]))
    assert jnp.all(jnp.isinf(few.distances[:4, 3:]))


def test_cosine_and_functions():
    points = jax.random.normal(KEY, (300, 5)) + 1
    np.testing.assert_allclose(
        k_nearest(points, 6, metric="cosine").distances, oracle(points, 6, "cosine")[0], atol=1e-6
    )
    found = k_nearest(points, 6, metric=lambda x, y: jnp.sum(jnp.abs(x - y)))
    np.testing.assert_allclose(found.distances, oracle(points, 6, "manhattan")[0], rtol=1e-5)


def test_vmap_jit_and_low_precision():
    stack = jax.random.normal(KEY, (3, 200, 4))
    many = jax.vmap(lambda points: k_nearest(points, 3))(stack)
    one = jax.jit(lambda points: k_nearest(points, 3))(stack[1])
    assert jnp.array_equal(many.indices[1], one.indices)
    np.testing.assert_allclose(many.distances[1], k_nearest(stack[1], 3).distances, rtol=1e-6)
    half = stack[0].astype(jnp.bfloat16)
    assert k_nearest(half, 3).distances.dtype == jnp.float32
    expected = k_nearest(half.astype(jnp.float32), 3)
    assert jnp.array_equal(k_nearest(half, 3).indices, expected.indices)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_gradient(metric):
    points = jax.random.normal(KEY, (60, 3)) + 0.5
    weights = jax.random.normal(jax.random.key(1), (60, 4))

    def loss(points):
        return jnp.sum(weights * k_nearest(points, 4, metric=metric).distances)

    direction = jax.random.normal(jax.random.key(2), points.shape)
    direction = direction / jnp.linalg.norm(direction)
    slope = jnp.sum(jax.grad(loss)(points) * direction)
    numeric = (loss(points + 1e-3 * direction) - loss(points - 1e-3 * direction)) / 2e-3
    np.testing.assert_allclose(slope, numeric, rtol=2e-2, atol=2e-3)
    found = k_nearest(points, 4, metric=metric)
    again = pair_distances(points, found.indices, metric=metric)
    np.testing.assert_allclose(again, found.distances, rtol=1e-5)


def test_gradient_at_duplicates_is_finite():
    points = jnp.zeros((20, 3))
    grad = jax.grad(lambda points: jnp.sum(k_nearest(points, 2).distances))(points)
    assert jnp.array_equal(grad, jnp.zeros_like(points))


def test_counts_and_matrix():
    points = jax.random.normal(KEY, (333, 4)) + 20
    exact = np.asarray(points, np.float64)
    matrix = np.linalg.norm(exact[:, None] - exact[None], axis=-1)
    np.testing.assert_allclose(distance_matrix(points), matrix, atol=2e-5)
    expected = np.stack([(matrix < radius).sum(1) - 1 for radius in (0.7, 1.5)], axis=1)
    assert np.array_equal(neighbor_counts(points, jnp.asarray([0.7, 1.5])), expected)


@pytest.mark.parametrize(
    ("points", "k", "message"),
    [
        (jnp.zeros((5, 2)), 5, "k=5"),
        (jnp.zeros((5, 2)), 0, "at least 1"),
        (jnp.zeros((1, 2)), 1, "k=1"),
        (jnp.full((5, 2), jnp.nan), 2, "NaN"),
    ],
)
def test_bad_input(points, k, message):
    with pytest.raises(ValueError, match=message):
        k_nearest(points, k)


def test_wrong_rank_and_metric():
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
        k_nearest(jnp.zeros(5), 2)
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
        k_nearest(jnp.zeros((5, 2)), 2, metric="hamming")


def test_smallest_inputs():
    found = k_nearest(jnp.asarray([[0.0], [3.0]]), 1)
    assert jnp.array_equal(found.distances, jnp.full((2, 1), 3.0))
    assert jnp.array_equal(found.indices, jnp.asarray([[1], [0]]))


def test_the_unit_is_a_power_of_two():
    """Integers stay exact in it, and with them their ties."""
    spreads = 1.5 * 2.0 ** np.arange(-120, 120)
    units = jax.jit(jax.vmap(lambda s: unit_and_centre(s[None], s, None)[0]))(jnp.float32(spreads))
    np.testing.assert_array_equal(units, 2.0 ** np.arange(-120, 120))
