import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.dictionaries.batch_selection import batch_top_k


def by_sorting(scores, total):
    positive = np.maximum(scores, 0)
    last = np.sort(positive.ravel())[-total]
    return np.where((scores >= last) & (scores > 0), scores, 0)


@pytest.mark.parametrize(("shape", "total"), [((40, 64), 200), ((7, 33), 17), ((1, 500), 1)])
def test_keeps_what_sorting_keeps(rng, shape, total):
    for scale in (1.0, np.exp(3 * rng.normal(size=(shape[0], 1)))):  # rows alike; a few have all
        scores = (rng.normal(size=shape) * scale).astype(np.float32)
        kept = jax.jit(batch_top_k, static_argnums=1)(scores, total)
        np.testing.assert_array_equal(kept, by_sorting(scores, total))


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
def test_short_types_keep_what_sorting_keeps(rng, kind):
    """Many equals, and numbers down to the smallest ones of the type."""
    for scale in (1.0, 1e-6):
        scores = jnp.asarray(rng.normal(size=(40, 64)) * scale, kind)
        wide = np.asarray(scores, np.float32)
        for total in (1, 200, 1000):
            kept = batch_top_k(scores, total)
            assert kept.dtype == kind
            np.testing.assert_array_equal(np.asarray(kept, np.float32), by_sorting(wide, total))


@pytest.mark.parametrize("total", [0, -1])
def test_keeping_nothing_is_refused(total):
    with pytest.raises(ValueError, match=f"total={total} scores to keep: need at least 1"):
        batch_top_k(jnp.ones((3, 4)), total)


def test_any_scale_and_many_orders_of_magnitude(rng):
    for power in (-30, 0, 30):
        scores = np.exp(10 * rng.normal(size=(30, 64)) + power).astype(np.float32)
        assert (np.asarray(batch_top_k(jnp.asarray(scores), 100)) > 0).sum() == 100


def test_too_few_positive_scores_are_all_kept_and_ties_stay_together():
    scores = jnp.asarray([[3.0, -1.0, 0.0, 2.0], [-2.0, 2.0, 2.0, 1.0]])
    np.testing.assert_array_equal(batch_top_k(scores, 7), jnp.maximum(scores, 0))
    kept = batch_top_k(scores, 2)
    np.testing.assert_array_equal(kept, jnp.where(scores >= 2, scores, 0))
    assert not batch_top_k(-jnp.ones((3, 4)), 5).any()


def test_gradient_is_one_where_kept(rng):
    scores = jnp.asarray(rng.normal(size=(9, 12)), jnp.float32)
    gradient = jax.grad(lambda s: batch_top_k(s, 20).sum())(scores)
    np.testing.assert_array_equal(gradient, np.asarray(batch_top_k(scores, 20)) > 0)


def test_many_batches_at_once(rng):
    scores = jnp.asarray(rng.normal(size=(5, 9, 12)), jnp.float32)
    together = jax.vmap(lambda s: batch_top_k(s, 20))(scores)
    np.testing.assert_array_equal(together, jnp.stack([batch_top_k(s, 20) for s in scores]))


def test_counts_are_right_beyond_a_byte():
    """512 ones in each row, so that a group of latents holds more than a byte can count."""
    scores = jnp.concatenate([jnp.ones((300, 512)), jnp.zeros((300, 512))], 1)
    assert batch_top_k(scores, 300 * 512).sum() == 300 * 512
    scores = scores.at[:100, :512].set(2.0)
    assert batch_top_k(scores, 100 * 512).sum() == 2 * 100 * 512
