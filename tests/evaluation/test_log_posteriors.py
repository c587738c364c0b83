"""Probes of log-posteriors, and how closely latents follow them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.dictionaries.base import Codes
from jaxinterp.evaluation import fit_probes, follow, log_odds


def mixture(n=4000, concepts=4, d=16):
    """(activations, labels, true logits, mixing): logits of variance 4, mixed, a little noise."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, concepts)) * 2
    mixing = rng.normal(size=(concepts, d))
    x = logits @ mixing + 0.1 * rng.normal(size=(n, d)) + 5.0
    present = rng.random((n, concepts)) < 1 / (1 + np.exp(-logits))
    return jnp.asarray(x, jnp.float32), present, logits, mixing


def test_probes_read_the_logits_that_a_linear_mixture_hides():
    x, present, logits, mixing = mixture()
    probes = fit_probes(x, present)
    assert bool(probes.converged.all())
    found = follow(log_odds(probes, x), jnp.asarray(logits, jnp.float32), 4)
    table = np.abs(found.correlation)
    assert np.diag(table).min() > 0.99
    assert (table - np.diag(np.diag(table))).max() < 0.15
    np.testing.assert_array_equal(found.latent, np.arange(4))
    np.testing.assert_allclose(found.score, np.diag(table).mean(), rtol=1e-6)
    # The mixing times the probes' directions is the identity, up to a scale of each.
    product = mixing @ np.asarray(probes.weight)
    product = np.abs(product / np.diag(product)[None])
    assert (product - np.eye(4)).max() < 0.1
    mixed = follow(x, jnp.asarray(logits, jnp.float32), 16)  # no coordinate is one concept
    assert float(mixed.score) < 0.9


def test_a_probe_is_scikit_learn_s_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    x, present, *_ = mixture(n=600)
    x = 30 * x
    probes = fit_probes(x, present, ridge=0.05)
    rows = np.asarray(x, np.float64)
    strength = 1 / (len(rows) * 0.05 * rows.var(0).mean())
    for j in range(4):
        oracle = LogisticRegression(C=strength, tol=1e-8, max_iter=5000)
        oracle.fit((rows - rows.mean(0)), present[:, j])
        expected = oracle.decision_function(rows - rows.mean(0))
        np.testing.assert_allclose(log_odds(probes, x)[:, j], expected, atol=2e-3)


def test_a_separable_concept_keeps_finite_weights():
    x = jnp.linspace(-1, 1, 40)[:, None] * jnp.asarray([[1.0, 0.0, 2.0]])
    probes = fit_probes(x, np.asarray(x[:, :1] > 0))
    assert bool(probes.converged.all())
    odds = np.asarray(log_odds(probes, x))[:, 0]
    assert np.isfinite(odds).all()
    assert (np.diff(odds) > 0).all()


def test_correlations_are_numpy_s_for_codes_of_either_form(rng):
    n, width = 60, 7
    z = rng.random((n, width)) * (rng.random((n, width)) < 0.5) + 20.0 * (np.arange(width) == 2)
    z[:, 5] = 0.0
    logits = rng.normal(size=(n, 3)) + 100.0
    expected = np.corrcoef(np.delete(z, 5, 1).T, logits.T)[:6, 6:]
    order = np.argsort(-z, axis=1)
    sparse = Codes(jnp.asarray(np.take_along_axis(z, order, 1), jnp.float32), jnp.asarray(order))
    for codes in (jnp.asarray(z, jnp.float32), sparse):
        found = follow(codes, jnp.asarray(logits, jnp.float32), width)
        np.testing.assert_allclose(np.delete(found.correlation, 5, 0), expected, atol=1e-4)
        np.testing.assert_array_equal(found.correlation[5], 0)
        np.testing.assert_allclose(found.score, np.abs(expected).max(0).mean(), atol=1e-4)
        holed = follow(codes, jnp.asarray(logits, jnp.float32).at[0, 1].set(jnp.nan), width)
        assert np.isnan(holed.score)
        np.testing.assert_array_equal(np.isnan(holed.correlation).any(0), [False, True, False])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x[:0], y[:0]), "needs rows and concepts"),
        (lambda x, y: (x, y[:, :0]), "needs rows and concepts"),
        (lambda x, y: (x, y[1:]), "29 labels for 30 activations"),
        (lambda x, y: (x, y | (np.arange(4) == 2)), "concept 2 is present on 30 of 30 rows"),
        (lambda x, y: (x, y & (np.arange(4) != 1)), "concept 1 is present on 0 of 30 rows"),
        (lambda x, y: (jnp.ones_like(x), y), "30 equal activations"),
    ],
)
def test_probes_that_can_learn_nothing_are_refused(change, said):
    x, present, *_ = mixture(n=30)
    with pytest.raises(ValueError, match=said):
        fit_probes(*change(x, present))
    with pytest.raises(ValueError, match=r"ridge=0"):
        fit_probes(x, present, ridge=0.0)
    with pytest.raises(ValueError, match="1 rows: a correlation"):
        follow(x[:1], jnp.ones((1, 2)), 16)
