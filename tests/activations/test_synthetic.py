import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.activations import synthetic

ROWS = 40_000
draw = jax.jit(synthetic.draw, static_argnums=2)


def world(**options):
    return synthetic.invent(jax.random.key(0), 60, 16, **({"active": 6.0} | options))


def sizes_of(truth, seed=1, n=ROWS):
    return np.asarray(draw(truth, jax.random.key(seed), n).sizes)


@pytest.mark.parametrize(
    "options",
    [{}, {"trees": 4, "branching": 3, "levels": 3, "correlation": 0.5}, {"exponent": 1.5}],
    ids=["independent", "trees and correlation", "cut at 0.9"],
)
def test_features_are_as_frequent_as_the_world_says(options):
    truth = world(**options)
    frequency = np.asarray(truth.frequency, np.float64)
    np.testing.assert_allclose(frequency.sum(), 6.0, rtol=1e-5)
    assert frequency.max() <= 0.9 + 1e-6
    uncut = frequency < 0.89
    zipf = np.arange(1, 61.0) ** -options.get("exponent", 0.5)
    assert np.ptp((frequency / zipf)[uncut]) < 1e-5
    measured = (sizes_of(truth) > 0).mean(0)
    # Five standard errors; correlation moves rows, not their independence of each other.
    np.testing.assert_array_less(
        np.abs(measured - frequency), 5 * np.sqrt(frequency * (1 - frequency) / ROWS) + 1e-6
    )


def test_a_child_is_active_only_with_its_ancestors():
    truth = world(trees=4, branching=3, levels=3)
    active = sizes_of(truth) > 0
    parent = np.asarray(truth.ancestors[1])
    assert parent[:4].tolist() == [0, 1, 2, 3]
    assert parent[4:8].tolist() == [0, 0, 0, 1]
    assert parent[16:20].tolist() == [4, 4, 4, 5]
    assert (parent[52:] == np.arange(52, 60)).all()
    assert (active <= active[:, parent]).all()
    np.testing.assert_array_equal(truth.ancestors[2], parent[parent])


def test_exclusive_siblings_are_never_active_together_and_still_as_frequent_as_said():
    truth = world(trees=4, branching=3, levels=3, exclusive=True)
    active = sizes_of(truth) > 0
    parent = np.asarray(truth.ancestors[1])
    families = [np.flatnonzero((parent == p) & (np.arange(60) != p)) for p in range(16)]
    assert all(len(family) == 3 for family in families)
    assert all(active[:, family].sum(1).max() == 1 for family in families)
    assert (active <= active[:, parent]).all()
    frequency = np.asarray(truth.frequency, np.float64)
    np.testing.assert_allclose(frequency.sum(), 6.0, rtol=1e-5)
    together = np.array([frequency[family].sum() for family in families])
    np.testing.assert_array_less(together, frequency[:16] * (1 + 1e-5))
    error = np.sqrt(frequency * (1 - frequency) / ROWS)
    np.testing.assert_array_less(np.abs(active.mean(0) - frequency), 5 * error)
    # Without it siblings meet, so the test above can fail.
    free = sizes_of(world(trees=4, branching=3, levels=3)) > 0
    assert free[:, families[0]].sum(1).max() > 1


def test_correlated_features_occur_together_as_their_normals_say():
    """Against the orthant probability of two normals of correlation r, from SciPy."""
    from scipy.stats import multivariate_normal, norm

    truth = world(correlation=0.8, rank=2)
    loading = np.asarray(truth.loading, np.float64)
    r = loading @ loading.T
    np.testing.assert_allclose(np.diag(r), 0.8, rtol=1e-5)
    i, j = np.unravel_index(np.argmax(r - 2 * np.eye(60)), r.shape)
    at = [norm.isf(truth.frequency[i]), norm.isf(truth.frequency[j])]
    both = multivariate_normal([0, 0], [[1, r[i, j]], [r[i, j], 1]]).cdf([-at[0], -at[1]])
    active = sizes_of(truth) > 0
    measured = (active[:, i] & active[:, j]).mean()
    assert both > 2 * float(truth.frequency[i] * truth.frequency[j])
    assert abs(measured - both) < 5 * np.sqrt(both / ROWS)


def test_activations_are_their_features_and_nothing_else():
    truth = world(bias=3.0)
    x, sizes = draw(truth, jax.random.key(2), 4000)
    np.testing.assert_allclose(x, sizes @ truth.atoms + truth.bias[None], atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(truth.bias), 3.0, rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(truth.atoms, axis=1), 1.0, rtol=1e-5)
    noisy = draw(truth._replace(noise=jnp.asarray(0.5)), jax.random.key(2), 4000)
    residual = noisy.x - noisy.sizes @ truth.atoms - truth.bias[None]
    assert abs(float(residual.std()) - 0.5) < 0.01


def test_a_draw_depends_on_its_key_alone():
    truth = world(trees=4, branching=3, correlation=0.2)
    np.testing.assert_array_equal(sizes_of(truth, n=50), sizes_of(truth, n=50))
    assert (sizes_of(truth, n=50) != sizes_of(truth, seed=9, n=50)).any()
    keys = jax.random.split(jax.random.key(3), 3)
    together = jax.jit(jax.vmap(lambda key: synthetic.draw(truth, key, 50).x))(keys)
    alone = jnp.stack([draw(truth, key, 50).x for key in keys])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"trees": 9}, "189 nodes"),
        ({"correlation": 1.0}, "correlation=1.0"),
        ({"trees": 20, "branching": 2, "levels": 2, "active": 50.0, "exclusive": True}, "at most"),
    ],
)
def test_worlds_that_cannot_be_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        world(**options)
    with pytest.raises(ValueError, match="active=99"):
        synthetic.invent(jax.random.key(0), 60, 16, active=99)
