import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.activations import synthetic
from jaxinterp.dictionaries.base import densify
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.optimizers import learning_rate, optimizer
from jaxinterp.dictionaries.topk import topk
from jaxinterp.evaluation import recovery


def test_matching_is_the_best_of_all_assignments(rng):
    table = rng.uniform(-1, 1, size=(4, 6))
    best = max(
        itertools.permutations(range(6), 4), key=lambda p: sum(table[i, j] for i, j in enumerate(p))
    )
    match = recovery.match_atoms(table)
    assert match.latent.tolist() == list(best)
    np.testing.assert_allclose(match.cosine, [table[i, j] for i, j in enumerate(best)])


def test_features_that_get_no_latent_have_cosine_zero():
    match = recovery.match_atoms(np.array([[0.9], [0.95], [0.1]]))
    assert match.latent.tolist() == [-1, 0, -1]
    assert match.cosine.tolist() == [0, 0.95, 0]
    agreement = recovery.agree(jnp.ones((5, 1)), jnp.ones((5, 3)), match.latent, jnp.ones(1))
    assert recovery.recovery(match, agreement).f1.tolist() == [0, 1, 0]


def test_uniqueness_sees_latents_that_crowd_on_one_feature():
    spread = recovery.match_atoms(np.eye(4))
    crowded = recovery.match_atoms(np.array([[0.9, 0.8, 0.7], [0.1, 0.1, 0.1], [0, 0, 0.0]]))
    assert spread.uniqueness == 1
    assert crowded.uniqueness == 1 / 3


def test_the_truth_itself_is_recovered_whatever_the_order_and_the_scale(rng):
    truth = synthetic.invent(jax.random.key(0), 30, 12, active=3.0)
    _, sizes = synthetic.draw(truth, jax.random.key(1), 500)
    order, scale = rng.permutation(30), rng.uniform(0.5, 2, size=30)
    decoder = jnp.asarray(truth.atoms[order] * scale[:, None])
    codes = jnp.asarray(sizes[:, order] / scale[None])
    match = recovery.match_atoms(recovery.cosines(decoder, truth.atoms))
    np.testing.assert_array_equal(order[match.latent], np.arange(30))
    agreement = recovery.agree(codes, sizes, match.latent, jnp.linalg.norm(decoder, axis=1))
    found = recovery.recovery(match, agreement)
    np.testing.assert_allclose(found.cosine, 1, atol=1e-5)
    np.testing.assert_allclose(found.f1, 1)
    np.testing.assert_allclose(found.shrinkage, 0, atol=1e-5)


def test_scores_are_those_of_scikit_learn_and_batches_add_up(rng):
    from sklearn.metrics import f1_score, precision_score, recall_score

    sizes = jnp.asarray(rng.exponential(size=(400, 3)) * (rng.random((400, 3)) < 0.3), jnp.float32)
    lost, added = rng.random((400, 3)) < 0.2, rng.random((400, 3)) < 0.1
    codes = jnp.where(lost, 0.0, 0.7 * sizes) + jnp.where(added & (sizes == 0), 1.0, 0.0)
    match = recovery.Match(np.arange(3), np.ones(3), 1.0)
    halves = [
        recovery.agree(codes[part], sizes[part], match.latent, jnp.ones(3))
        for part in (slice(0, 150), slice(150, 400))
    ]
    found = recovery.recovery(match, jax.tree.map(jnp.add, *halves))
    for i in range(3):
        true, seen = np.asarray(sizes[:, i] > 0), np.asarray(codes[:, i] > 0)
        np.testing.assert_allclose(found.precision[i], precision_score(true, seen), rtol=1e-6)
        np.testing.assert_allclose(found.recall[i], recall_score(true, seen), rtol=1e-6)
        np.testing.assert_allclose(found.f1[i], f1_score(true, seen), rtol=1e-6)
    np.testing.assert_allclose(found.shrinkage, 0.3, atol=1e-5)


@pytest.mark.slow
def test_topk_at_the_true_sparsity_recovers_the_features():
    """Half as many dimensions as features, a third more latents; none of the features is rare."""
    features, width, active, steps, batch = 96, 128, 3, 1000, 256
    truth = synthetic.invent(jax.random.key(0), features, 48, active=active)
    rate = learning_rate(4e-3, steps=steps, warmup=50, decay="linear")
    learn = learner(topk(width, active, dead_after=10_000), optimizer("adam", rate, clip=1.0))

    @jax.jit
    def train(key):
        start, draws = jax.random.split(key)
        state = learn.init(start, synthetic.draw(truth, draws, 2048).x)

        def step(state, key):
            return learn.step(state, synthetic.draw(truth, key, batch).x)

        return jax.lax.scan(step, state, jax.random.split(draws, steps))[0].params

    params = train(jax.random.key(1))
    match = recovery.match_atoms(recovery.cosines(params["decoder"], truth.atoms))
    assert (match.cosine > 0.9).mean() >= 0.95
    test = jax.jit(synthetic.draw, static_argnums=2)(truth, jax.random.key(2), 4000)
    codes = densify(jax.jit(topk(width, active).encode)(params, test.x), width)
    agreement = recovery.agree(codes, test.sizes, match.latent, jnp.ones(width))
    assert recovery.recovery(match, agreement).f1.mean() > 0.7
