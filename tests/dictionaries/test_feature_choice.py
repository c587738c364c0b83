from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries import base, scores
from jaxinterp.dictionaries.atoms import zero_centre
from jaxinterp.dictionaries.batch_selection import batch_top_k, column_top_k
from jaxinterp.dictionaries.errors import unexplained
from jaxinterp.dictionaries.feature_choice import (
    aux_zipf_loss,
    budgets,
    feature_choice,
    mutual_choice,
)
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.revival import auxiliary_error
from jaxinterp.dictionaries.sparsify import top_k_scores

ROWS, WIDTH, K = 256, 512, 8


def affinities():
    """Scores of latents of very different popularity."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    return jnp.asarray(noise + np.linspace(5.5, 1.5, WIDTH, dtype=np.float32)[None])


def test_each_column_keeps_its_own_largest():
    h = affinities()
    totals = np.random.default_rng(1).integers(1, ROWS + 1, WIDTH)
    kept = np.asarray(jax.jit(column_top_k)(h, jnp.asarray(totals)))
    ordered = -np.sort(-np.asarray(h), axis=0)
    for j in range(0, WIDTH, 17):
        expected = ordered[: totals[j], j]
        expected = expected[expected > 0]
        found = kept[:, j][kept[:, j] > 0]
        np.testing.assert_array_equal(-np.sort(-found), expected)
    gradient = jax.grad(lambda h: column_top_k(h, jnp.asarray(totals)).sum())(h)
    np.testing.assert_array_equal(gradient, kept > 0)


def test_budgets_are_exact_and_leave_no_latent_out():
    """The planted check: by rows and over the batch more than half die, by columns none does."""
    h, matches = affinities(), K * ROWS
    by_batch = np.asarray(batch_top_k(h, matches)) > 0
    assert by_batch.sum() == matches
    eye = jnp.eye(WIDTH)
    by_row = jax.nn.relu(top_k_scores(h, eye, jnp.zeros(WIDTH), K).values)
    rows_used = np.unique(np.asarray(top_k_scores(h, eye, jnp.zeros(WIDTH), K).indices))
    assert (by_row > 0).sum() <= matches
    assert 1 - len(rows_used) / WIDTH > 0.5
    assert (~by_batch.any(0)).mean() > 0.5
    assert by_batch.sum(1).std() > 2
    for exponent in (0.0, 1.0):
        totals = budgets(WIDTH, matches, ROWS, exponent=exponent)
        assert totals.sum() == matches
        assert totals.min() >= 1
        assert (np.diff(totals) <= 0).all()
        by_column = np.asarray(column_top_k(h, jnp.asarray(totals))) > 0
        assert (by_column.sum(0) <= totals).all()
        assert by_column.any(0).all()
    np.testing.assert_array_equal(budgets(4, 10, 100, exponent=0.0), [3, 3, 2, 2])
    assert budgets(WIDTH, matches, 20).max() == 20


def test_a_batch_that_can_not_serve_every_latent_is_refused():
    with pytest.raises(ValueError, match="256 matches for 512 latents"):
        budgets(512, 256, 32)
    with pytest.raises(ValueError, match="at least one for each latent"):
        budgets(4, 100, 8)
    with pytest.raises(ValueError, match=r"k=0 latents per row"):
        feature_choice(16, 0)


def test_a_row_of_nan_shows_in_its_codes_and_nowhere_else():
    dictionary, x = feature_choice(16, 2, centre=zero_centre), jnp.eye(6).at[3].set(jnp.nan)
    params = dictionary.init(jax.random.key(0), jnp.eye(6))
    bad = jnp.isnan(dictionary.encode(params, x))
    np.testing.assert_array_equal(bad, jnp.tile(jnp.arange(6)[:, None] == 3, (1, 16)))


def test_the_zipf_loss_is_auxk_where_only_dead_latents_fall_short():
    d, width = 6, 16
    keys = jax.random.split(jax.random.key(0), 3)
    encoder = scores.linear()
    params = {
        "encoder": jax.random.normal(keys[0], (width, d)),
        "encoder_bias": jnp.zeros(width),
        "decoder": base.unit_rows(jax.random.normal(keys[1], (width, d))),
        "decoder_bias": jnp.zeros(d),
    }
    x = jax.random.normal(keys[2], (20, d))
    law = 1 / (np.arange(width) + 8.0)
    # The first ten as the law of sixteen says, in some order; the rest never.
    alive = np.random.default_rng(0).permutation(width)[:10]
    density = np.zeros(width, np.float32)
    density[alive] = law[:10] * 0.3
    density *= law.sum() / law[:10].sum()  # so that the sum is the law's
    ours = aux_zipf_loss(params, encoder, x, x, jnp.asarray(density), width)
    dead = jnp.asarray(density == 0)
    auxk = auxiliary_error(params, encoder, x, x, dead, width, measure=unexplained)
    np.testing.assert_allclose(ours, auxk, rtol=1e-5)
    weak = density.copy()
    weak[alive[9]] *= 0.2  # under-used: takes part now, by its shortfall
    other = aux_zipf_loss(params, encoder, x, x, jnp.asarray(weak), width)
    assert abs(float(other) - float(ours)) > 1e-4
    none = aux_zipf_loss(params, encoder, x, x, jnp.asarray(law, jnp.float32), width)
    assert float(none) == 0


@cache
def trained(make):
    """Rows with features of very different frequency, coded by a wide dictionary."""
    d, features, width = 16, 48, 64
    atoms = base.unit_rows(jax.random.normal(jax.random.key(0), (features, d)))
    frequency = jnp.asarray(3.0 / features * np.geomspace(3, 0.05, features), jnp.float32)

    def rows(key):
        on, size = jax.random.split(key)
        active = jax.random.uniform(on, (256, features)) < frequency[None]
        return jnp.where(active, 1 + jax.random.uniform(size, active.shape), 0.0) @ atoms

    dictionary = make(width)
    ours = learner(dictionary, optax.adam(3e-3))
    state = jax.jit(ours.init)(jax.random.key(1), rows(jax.random.key(2)))
    keys = jax.random.split(jax.random.key(3), 400)
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, k: ours.step(s, rows(k)), s, keys))(state)
    test = jnp.concatenate([rows(key) for key in jax.random.split(jax.random.key(4), 8)])
    return jax.jit(dictionary.encode)(state.params, test), state


def make_feature_choice(width):
    return feature_choice(width, 4, choose_from=100)


def make_mutual_choice(width):
    return mutual_choice(width, 4, aux_weight=0.0)


@pytest.mark.slow
def test_no_latent_dies_and_inference_keeps_k_on_average():
    codes, state = trained(make_feature_choice)
    used = np.asarray(codes > 0)
    assert used.any(0).all()
    assert abs(used.sum(1).mean() / 4 - 1) < 0.1
    assert float(state.params["density"].min()) > 0.5 / 256
    mutual, _ = trained(make_mutual_choice)
    assert (~np.asarray(mutual > 0).any(0)).mean() > 0.05
