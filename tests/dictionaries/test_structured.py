import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.structured import nuclear_norm, shrink_singular_values, structured


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_the_nuclear_norm_and_its_gradient_are_those_of_the_singular_values(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    u, sigma, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    value, gradient = jax.value_and_grad(nuclear_norm)(jnp.asarray(matrix))
    np.testing.assert_allclose(value, sigma.sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, u @ v, atol=1e-4)


def test_the_gradient_is_finite_where_singular_values_are_zero():
    one = jnp.ones((4, 6))
    value, gradient = jax.value_and_grad(nuclear_norm)(one)
    np.testing.assert_allclose(value, 24**0.5, rtol=1e-5)
    np.testing.assert_allclose(gradient, 1 / 24**0.5, atol=1e-4)
    assert not bool(jax.grad(nuclear_norm)(jnp.zeros((4, 6))).any())


def test_shrinking_singular_values_is_the_proximal_map():
    rng = np.random.default_rng(0)
    matrix, t = rng.normal(size=(6, 4)).astype(np.float32), 1.0
    found = np.asarray(shrink_singular_values(jnp.asarray(matrix), t))

    def cost(w):
        return 0.5 * ((w - matrix) ** 2).sum() + t * np.linalg.svd(w, compute_uv=False).sum()

    least = cost(found)
    for scale in (1e-3, 1e-2, 1e-1):
        for _ in range(200):
            assert cost(found + scale * rng.normal(size=matrix.shape)) > least - 1e-6
    assert np.linalg.matrix_rank(found, tol=1e-4) < 4


@pytest.mark.slow
def test_what_all_rows_share_goes_to_the_low_rank_part():
    """Two dense directions under sparse features: with a place of their own, codes get sparser."""
    d, width = 16, 32
    frame = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (d, d)))[0]

    def rows(key):
        on, dense = jax.random.split(key)
        sparse = jax.random.uniform(on, (256, d - 2)) < 0.1
        return 2.0 * sparse @ frame[2:] + 3 * jax.random.normal(dense, (256, 2)) @ frame[:2]

    def trained(dictionary):
        ours = learner(dictionary, optax.adam(3e-3))
        state = jax.jit(ours.init)(jax.random.key(1), rows(jax.random.key(2)))
        keys = jax.random.split(jax.random.key(3), 1500)
        run = jax.jit(lambda s: jax.lax.scan(lambda s, k: ours.step(s, rows(k)), s, keys))
        state, info = run(state)
        return state.params, {name: float(v[-100:].mean()) for name, v in info.items()}

    _, plain = trained(relu(width, weight=0.3))
    params, ours = trained(structured(relu, width=width, weight=0.3, low_rank_weight=0.5))
    written = params["low_rank"].T @ params["decoder"]
    energy = np.linalg.norm(np.asarray(frame[:2] @ written), axis=1)
    others = np.linalg.norm(np.asarray(frame[2:] @ written), axis=1)
    assert energy.min() > 0.8
    assert others.max() < 0.3
    assert ours["l0"] < 0.5 * plain["l0"]
    assert ours["variance_explained"] > plain["variance_explained"]
