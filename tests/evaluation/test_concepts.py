"""Concepts of latents: names, confidence on new data, ablation."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries import base, learner, topk
from jaxinterp.evaluation import concepts, ranking
from jaxinterp.interventions import effect, set_latents

CATEGORIES, D = 20, 32


@cache
def users(seed, n):
    """Users as the mean of 20 items: three of each of six categories, two of any.

    Items have a popularity too, along a direction of its own.
    """
    rng = np.random.default_rng(7)
    directions = np.linalg.qr(rng.normal(size=(D, D)))[0]
    of = np.repeat(np.arange(CATEGORIES), 15)
    items = directions[of] + rng.uniform(0, 1, (300, 1)) * directions[-1]
    items = items + 0.2 * rng.normal(size=(300, D)) / D**0.5
    rng = np.random.default_rng(seed)
    liked = np.argsort(rng.random((n, CATEGORIES)), 1)[:, :6]
    history = 15 * np.repeat(liked, 3, axis=1) + rng.integers(0, 15, (n, 18))
    history = np.concatenate([history, rng.integers(0, 300, (n, 2))], 1)
    counts = (of[history][:, :, None] == np.arange(CATEGORIES)).sum(1)
    x = jnp.asarray(items[history].mean(1), jnp.float32)
    return x, counts >= 2, jnp.asarray(items, jnp.float32), of


@cache
def plugged():
    dictionary = topk(32, 6)
    ours = learner(dictionary, optax.adam(5e-3))
    x = users(0, 4000)[0]
    state = jax.jit(ours.init)(jax.random.key(0), x)
    batches = jax.random.randint(jax.random.key(1), (500, 256), 0, 4000)
    go = jax.jit(lambda s, x: jax.lax.scan(lambda s, i: ours.step(s, x[i]), s, batches)[0])
    return dictionary, go(state, x).params


def test_every_category_has_its_latent_and_names_hold_on_new_users():
    dictionary, params = plugged()
    tables = []
    for part in np.array_split(np.arange(2000), 4):
        x, present, *_ = users(1, 2000)
        tables.append(concepts.count(dictionary.encode(params, x[part]), present[part], 32))
    table = jax.tree.map(lambda *parts: sum(parts), *tables)
    names = concepts.name_latents(table)
    assert len(set(names.latent.tolist())) == CATEGORIES
    assert names.f1[names.latent].min() > 0.9
    np.testing.assert_array_equal(names.concept[names.latent], np.arange(CATEGORIES))
    x, present, *_ = users(2, 2000)
    held = concepts.confidence(
        concepts.count(dictionary.encode(params, x), present, 32), names.concept
    )
    assert held.f1[names.latent].min() > 0.9
    shuffled = np.random.default_rng(0).permutation(present)
    blind = concepts.confidence(
        concepts.count(dictionary.encode(params, x), shuffled, 32), names.concept
    )
    assert np.nanmax(blind.f1) < 0.4


def test_ablating_a_concept_moves_its_items_and_no_others():
    dictionary, params = plugged()
    x, present, items, of = users(1, 2000)
    latent = concepts.name_latents(concepts.count(dictionary.encode(params, x), present, 32)).latent
    ablate = jax.jit(lambda x, which: set_latents(dictionary, params, x, which))
    score = lambda x: x @ items.T  # noqa: E731
    for category in range(0, CATEGORIES, 4):
        fans = x[present[:, category]][:60]
        changed = ablate(fans, jnp.asarray([latent[category]]))
        before, after = score(fans), score(changed)
        own = of == category
        assert (ranking.mean_rank(after, own) > ranking.mean_rank(before, own) + 50).mean() > 0.9
        assert np.median(ranking.spearman(before[:, ~own], after[:, ~own])) > 0.95
        found = effect(score, fans, changed)
        np.testing.assert_allclose(found.predicted, found.actual, atol=1e-4)  # it is linear


def test_tables_are_counts_in_either_form(rng):
    z = jnp.asarray(rng.random((50, 8)) * (rng.random((50, 8)) < 0.4), jnp.float32)
    present = rng.random((50, 3)) < 0.5
    table = concepts.count(z, present, 8, above=0.2)
    on = np.asarray(z) > 0.2
    np.testing.assert_array_equal(table.both, on.T.astype(int) @ present.astype(int))
    sparse = base.Codes(*jax.lax.top_k(z, 8))
    for a, b in zip(table, concepts.count(sparse, present, 8, above=0.2), strict=True):
        np.testing.assert_array_equal(a, b)
    names = concepts.name_latents(table)
    told = concepts.confidence(table, names.concept)
    from sklearn.metrics import f1_score, precision_score, recall_score

    for latent in range(8):
        which = present[:, names.concept[latent]]
        for score, mine in ((precision_score, 0), (recall_score, 1), (f1_score, 2)):
            # The name predicts; what fires is the truth.
            np.testing.assert_allclose(told[mine][latent], score(on[:, latent], which))
    best = [[f1_score(on[:, j], present[:, c]) for c in range(3)] for j in range(8)]
    np.testing.assert_allclose(names.f1, np.max(best, 1))


@pytest.mark.parametrize("value", [False, True])
def test_concepts_of_a_single_class_are_refused(value):
    present = np.arange(12).reshape(6, 2) % 3 == 0
    present[:, 1] = value
    with pytest.raises(ValueError, match=f"concept 1 is present on {6 * value} of 6 rows"):
        concepts.name_latents(concepts.count(jnp.ones((6, 4)), present, 4))
    with pytest.raises(ValueError, match="at least one row"):
        concepts.count(jnp.ones((0, 4)), present[:0], 4)


def test_a_latent_that_never_fires_has_no_name():
    present = np.arange(12).reshape(6, 2) % 3 == 0
    z = jnp.ones((6, 3)).at[:, 1].set(0.0)
    names = concepts.name_latents(concepts.count(z, present, 3))
    assert names.concept[1] == -1
    assert np.isnan(concepts.confidence(concepts.count(z, present, 3), names.concept).f1[1])
