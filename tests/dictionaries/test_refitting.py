"""Pursuits with refitted coefficients against float64 greedy choices, and against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from jaxinterp.dictionaries import refitting
from tests.dictionaries.pursuits import CODERS, K, dense, residual_of, world

# Few rows are pursued by products, many by the Gram matrix: both must give the same codes.
EITHER = {"product": 10, "gram": 300}


def greedy(x, atoms, k, *, signed, fit):
    """Greedy choice in float64, row by row, with `fit(chosen atoms, row) -> coefficients`."""
    codes = np.zeros((len(x), len(atoms)))
    for row, code in zip(np.float64(x), codes, strict=True):
        chosen, residual = [], row
        for _ in range(k):
            scores = np.float64(atoms) @ residual
            best = int(np.argmax(np.abs(scores) if signed else scores))
            if scores[best] <= 0 and not signed:
                break
            chosen.append(best)
            code[chosen] = fit(np.float64(atoms)[chosen], row)
            residual = row - code @ np.float64(atoms)
    return codes


@pytest.mark.parametrize("rows", EITHER.values(), ids=EITHER)
@pytest.mark.parametrize("name", ["orthogonal", "nonnegative"])
def test_refitted_codes_are_the_least_squares_of_a_float64_greedy_choice(name, rows):
    x, atoms = world()
    x = x[:rows]
    fits = {
        "orthogonal": lambda a, row: np.linalg.lstsq(a.T, row, rcond=None)[0],
        "nonnegative": lambda a, row: nnls(a.T, row)[0],
    }
    expected = greedy(x[:40], atoms, K, signed=name == "orthogonal", fit=fits[name])
    codes = dense(CODERS[name](x, atoms, K))[:40]
    np.testing.assert_allclose(codes, expected, atol=1e-5 * np.abs(expected).max())


def test_orthogonal_codes_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.linear_model")
    x, atoms = world()
    gram, products = np.float64(atoms @ atoms.T), np.float64(atoms @ x[:40].T)
    expected = sklearn.orthogonal_mp_gram(gram, products, n_nonzero_coefs=K).T
    codes = dense(refitting.orthogonal_codes(x, atoms, K))[:40]
    np.testing.assert_allclose(codes, expected, atol=2e-5)


@pytest.mark.slow
def test_a_gradient_step_has_the_length_that_lowers_the_error_most():
    """The third choice: the first at which the gradient has more than the new atom's entry."""
    x, atoms = world()
    two, three = (refitting.gradient_codes(x, atoms, k, signed=True) for k in (2, 3))
    start = np.pad(np.float64(two.values), ((0, 0), (0, 1)))
    rows = zip(*map(np.float64, (x, three.values, start)), np.asarray(three.indices), strict=True)
    seen = 0
    for row, z, z0, chosen in rows:
        if len(set(chosen)) == 3:  # an atom that is chosen again has no place of its own
            a = np.float64(atoms)[chosen]
            slope = a @ (row - z0 @ a)
            length = slope @ slope / np.square(slope @ a).sum()
            np.testing.assert_allclose(z, z0 + length * slope, atol=1e-5)
            seen += abs(length - 1) > 0.05
    assert seen > 50


@pytest.mark.slow
def test_the_error_of_an_orthogonal_code_has_no_gradient_through_the_code():
    x, atoms = world()

    def error(codes, atoms):
        return jnp.square(residual_of(codes, x, atoms)).sum()

    whole = jax.grad(lambda a: error(refitting.orthogonal_codes(x, a, 4), a))(atoms)
    held = jax.grad(lambda a: error(refitting.orthogonal_codes(x, atoms, 4), a))(atoms)
    assert float(jnp.abs(held).max()) > 1
    np.testing.assert_allclose(whole, held, atol=1e-3)
