"""From numbers to discrete codes and, for gradients, straight through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.dictionaries import quantise

D = 6


def test_straight_through_is_the_code_exactly_and_the_derivative_of_the_number():
    soft = jax.random.normal(jax.random.key(0), (1000,)) * 1e4
    hard = jax.random.normal(jax.random.key(1), (1000,))
    value, pullback = jax.vjp(quantise.straight_through, hard, soft)
    np.testing.assert_array_equal(value, hard)
    to_hard, to_soft = pullback(jnp.arange(1000.0))
    np.testing.assert_array_equal(to_hard, 0)
    np.testing.assert_array_equal(to_soft, jnp.arange(1000.0))


@pytest.mark.parametrize("offset", [0.0, 3e3])
def test_nearest_is_that_of_distances_in_float64(rng, offset):
    """Far from the origin too, where |x|^2 - 2 x.c + |c|^2 in float32 would choose wrongly."""
    book, x = rng.normal(size=(40, D)) + offset, rng.normal(size=(30, 10, D)) + offset
    book, x = book.astype(np.float32), x.astype(np.float32)
    apart = np.square(x.astype(np.float64)[:, :, None] - book.astype(np.float64)).sum(-1)
    found = quantise.nearest(jnp.asarray(x), jnp.asarray(book))
    two = np.sort(apart, -1)[..., :2]
    clear = two[..., 1] - two[..., 0] > 1e-2
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(np.asarray(found)[clear], apart.argmin(-1)[clear])
    with pytest.raises(ValueError, match="dimension 5 for a dictionary of dimension 6"):
        quantise.nearest(jnp.ones((2, 5)), jnp.asarray(book))


def test_losses_of_a_code_move_one_side_each_as_written():
    """van den Oord's equation: the codebook term draws the word only, the commitment the number."""
    values = jnp.asarray([[-1.0, 0.2, 3.0], [0.0, 10.0, 20.0]])
    h = jnp.asarray([[0.5, 11.0], [2.0, 4.0]])
    found, level = quantise.nearest_value(h, values)
    np.testing.assert_array_equal(level, [[1, 1], [2, 0]])
    np.testing.assert_allclose(found, [[0.2, 10.0], [3.0, 0.0]])

    def cost(values, h):
        code = quantise.nearest_value(h, values)[0]
        return 2 * quantise.pull(code, h) + 3 * quantise.pull(h, code)

    to_values, to_h = jax.grad(cost, (0, 1))(values, h)
    away = (found - h) / h.size
    np.testing.assert_allclose(to_h, -3 * 2 * away, rtol=1e-6)
    expected = np.zeros((2, 3))
    np.add.at(expected, (np.asarray([[0, 1], [0, 1]]), np.asarray(level)), 2 * 2 * away)
    np.testing.assert_allclose(to_values, expected, rtol=1e-6)


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8])
def test_a_finite_grid_has_its_levels_and_its_origin(levels):
    z = jnp.linspace(-12, 12, 20001)
    places = np.unique(np.asarray(quantise.finite_levels(z, levels)))
    np.testing.assert_allclose(places, (np.arange(levels) - levels // 2) / (levels // 2))
    assert float(quantise.finite_levels(jnp.zeros(1), levels)[0]) == 0
    # The derivative is that of the bounded number: at the origin, h (1 - (o / h)^2) / (L // 2).
    half, offset = (levels - 1) / 2 * 1.001, 0.0 if levels % 2 else 0.5
    slope = jax.grad(lambda z: quantise.finite_levels(z, levels))(0.0)
    np.testing.assert_allclose(slope, half * (1 - (offset / half) ** 2) / (levels // 2), rtol=1e-4)


def test_perplexity_counts_words_in_use():
    counts = jnp.asarray([[5.0, 5, 5, 5], [0, 7, 0, 0], [0, 3, 3, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(quantise.perplexity(counts), [4, 1, 2, 1], rtol=1e-6)
