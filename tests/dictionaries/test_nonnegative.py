import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

from jaxinterp.dictionaries.nonnegative import nonnegative_least_squares


def test_nonnegative_least_squares_are_those_of_scipy():
    a = np.random.default_rng(0).normal(size=(200, 7, 9))
    x = np.random.default_rng(1).normal(size=(200, 9))
    a[:50, 3] = a[:50, 2] + 1e-2 * a[:50, 3]  # nearly the same direction
    a[50:60, 5] = 0.0  # no atom there
    gram, target = np.einsum("nkd,nld->nkl", a, a), np.einsum("nkd,nd->nk", a, x)
    with jax.enable_x64(True):
        solve = jax.jit(nonnegative_least_squares)
        found = solve(jnp.asarray(gram), jnp.asarray(target), jnp.zeros((200, 7)))
    expected = np.stack([nnls(b.T, row)[0] for b, row in zip(a, x, strict=True)])
    assert 1 < (expected == 0).sum(1).mean() < 5
    np.testing.assert_allclose(found, expected, atol=1e-5)
