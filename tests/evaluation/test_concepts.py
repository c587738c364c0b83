"""Concepts of latents, their ablation, and the scores that judge them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries import base, learner, relu, topk
from jaxinterp.evaluation import concepts, disentanglement, ranking, transition_map
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


def test_set_latents_keeps_the_error_and_works_for_codes_of_either_form():
    x = jax.random.normal(jax.random.key(0), (9, 6))
    for dictionary in (relu(12), topk(12, 3)):
        params = jax.jit(dictionary.init)(jax.random.key(1), x)
        codes = dictionary.encode(params, x)
        z = codes if isinstance(codes, jax.Array) else base.densify(codes, 12)
        which, values = jnp.asarray([4, 0, 7]), jnp.asarray([0.0, 2.0, -1.0])
        expected = x + (z.at[:, which].set(values) - z) @ params["decoder"]
        found = set_latents(dictionary, params, x, which, values)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        cube = set_latents(dictionary, params, x.reshape(3, 3, 6), which, values)
        np.testing.assert_allclose(cube.reshape(9, 6), expected, atol=1e-5)
        everything = set_latents(dictionary, params, x, jnp.arange(12))
        error = x - dictionary.decode(params, codes)
        np.testing.assert_allclose(everything, error + params["decoder_bias"][None], atol=1e-5)


def test_predicted_effects_are_first_order():
    x, step = jnp.asarray([0.3, 2.0]), jnp.asarray([0.5, -1.0])
    found = effect(lambda x: x**2, x, x + step)
    np.testing.assert_allclose(found.predicted, 2 * x * step, rtol=1e-6)
    np.testing.assert_allclose(found.actual, (x + step) ** 2 - x**2, rtol=1e-5)


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


def test_ranks_and_rank_correlations_are_scipy_s(rng):
    from scipy.stats import spearmanr

    a, b = rng.integers(0, 9, (5, 30)) * 1.0, rng.normal(size=(5, 30))
    found = ranking.spearman(a, b)
    expected = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(found, expected)
    assert np.isnan(ranking.spearman(np.ones((1, 4)), b[:1, :4])).all()
    np.testing.assert_array_equal(ranking.ranks(np.asarray([3.0, 9, 3, 1])), [2.5, 1, 2.5, 4])
    with pytest.raises(ValueError, match="no items"):
        ranking.mean_rank(b, np.zeros(30, bool))


@cache
def sources():
    return np.random.default_rng(0).integers(0, 4, (1500, 3))


def test_a_permuted_copy_is_disentangled_and_a_modular_sum_is_not():
    s = sources()
    relabel = np.asarray([[2, 0, 3, 1], [1, 3, 0, 2], [3, 2, 1, 0]])
    copy = np.stack([relabel[j][s[:, i]] for j, i in enumerate((1, 2, 0))], 1)
    constant = np.full((1500, 1), 5)
    good = disentanglement.info_mec(s, np.concatenate([copy, constant], 1))
    assert min(good[:3]) > 0.98
    assert good.active.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(good.information.argmax(1), [2, 0, 1])
    mixed = np.stack([s[:, 0] + s[:, 1], s[:, 1] + s[:, 2], s[:, 0] + s[:, 2]], 1) % 4
    bad = disentanglement.info_mec(s, mixed)
    assert bad.modularity < 0.3
    assert bad.compactness < 0.3
    assert bad.explicitness < 0.05


def test_information_is_scikit_learn_s():
    from sklearn.metrics import mutual_info_score

    s, z = sources(), (sources() + np.random.default_rng(1).integers(0, 2, (1500, 3))) % 4
    found = disentanglement.info_mec(s, z).information
    for i, j in np.ndindex(3, 3):
        own = mutual_info_score(s[:, i], s[:, i])
        np.testing.assert_allclose(found[i, j], mutual_info_score(s[:, i], z[:, j]) / own)


def test_explicitness_is_that_of_a_logistic_regression_on_one_hot_latents():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    rng = np.random.default_rng(1)
    s = np.where(rng.random((1500, 2)) < 0.5, 0, rng.integers(0, 3, (1500, 2)))  # not balanced
    z = np.where(rng.random((1500, 2)) < 0.3, rng.integers(0, 3, (1500, 2)), s)
    hot = np.concatenate([z[:, [j]] == np.arange(3) for j in range(2)], 1)
    expected = []
    for source in s.T:
        weight = 1 / np.bincount(source)[source]
        fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=2000, class_weight="balanced")
        p = fitted.fit(hot, source).predict_proba(hot)
        expected.append(1 - log_loss(source, p, sample_weight=weight) / np.log(3))
    found = disentanglement.info_mec(s, z).explicitness
    np.testing.assert_allclose(found, np.mean(expected), atol=1e-3)


@pytest.mark.parametrize(
    ("s", "z", "said"),
    [
        (np.zeros((4, 2), int), np.arange(8).reshape(4, 2), "source 0 has the value 0"),
        (np.arange(8).reshape(4, 2), np.zeros((4, 2), int), "2 sources and 0 active latents"),
        (np.arange(8).reshape(4, 2), np.arange(6).reshape(3, 2), "4 rows of sources and 3"),
    ],
)
def test_what_has_no_disentanglement_is_refused(s, z, said):
    with pytest.raises(ValueError, match=said):
        disentanglement.info_mec(s, z)


def test_a_map_of_codes_plans_shortest_ways_through_an_aliased_room():
    """6 x 6 cells, two codes of each, 1 % of codes wrong, a walk of 8000 steps."""
    rng, side = np.random.default_rng(0), 6
    moves = np.asarray([[0, 1], [1, 0], [0, -1], [-1, 0]])
    cells, actions = np.zeros((8001, 2), int), rng.integers(0, 4, 8000)
    for t, action in enumerate(actions):
        cells[t + 1] = np.clip(cells[t] + moves[action], 0, side - 1)
    cell = cells[:, 0] * side + cells[:, 1]
    codes = 2 * cell + rng.integers(0, 2, 8001)
    codes = np.where(rng.random(8001) < 0.01, rng.integers(0, 72, 8001), codes)
    counts = transition_map.count_transitions(codes, actions, 72, 4)
    halves = [
        transition_map.count_transitions(codes[a : b + 1], actions[a:b], 72, 4)
        for a, b in ((0, 3000), (3000, 8000))
    ]
    np.testing.assert_array_equal(sum(halves), counts)
    reached = best = 0
    for start, goal in rng.integers(0, 36, (200, 2)):
        way = transition_map.shortest_way(counts >= 8, int(2 * start), np.arange(72) // 2 == goal)
        place = np.asarray(divmod(start, side))
        for action in way or ():
            place = np.clip(place + moves[action], 0, side - 1)
        there = way is not None and place[0] * side + place[1] == goal
        apart = np.abs(np.asarray(divmod(start, side)) - np.asarray(divmod(goal, side))).sum()
        reached, best = reached + there, best + (there and len(way) == apart)
    assert reached >= 190
    assert best >= 190
    assert transition_map.shortest_way(counts >= 10**6, 0, np.arange(72) == 5) is None
    with pytest.raises(ValueError, match="need one code more"):
        transition_map.count_transitions(codes, actions[:-1], 72, 4)
    with pytest.raises(ValueError, match=r"need 0 \.\. 35"):
        transition_map.count_transitions(codes, actions, 36, 4)
