"""Codes, loss and gradient are those of SAELens and overcomplete (`fixtures/make_pursuit.py`)."""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxinterp import dictionaries
from jaxinterp.dictionaries import base, matching, refitting
from jaxinterp.dictionaries.errors import squared_error
from tests.dictionaries.pursuits import dense


@cache
def peers():
    stored = load_file(Path(__file__).parent / "fixtures" / "pursuit.safetensors")
    return {name: jnp.asarray(value) for name, value in stored.items()}


@pytest.mark.parametrize(
    "name", ["saelens", "saelens_stopping", "overcomplete", "overcomplete_orthogonal"]
)
def test_codes_are_those_of_the_peers(name):
    """SAELens with and without its stops; overcomplete's OMP with its least squares converged."""
    at = peers()
    x = at["x"] - at["bias"][None] if "saelens" in name else at["x"]
    stops = {"tolerance": 1.2, "stop_at_repeat": True} if "stopping" in name else {}
    coder = refitting.nonnegative_codes if "orthogonal" in name else matching.matching_codes
    codes = dense(coder(x, at["atoms"], 8, **stops), len(at["atoms"]))
    largest = np.abs(at[name]).max(1, keepdims=True)
    np.testing.assert_allclose(codes / largest, at[name] / largest, atol=1e-5)


def test_loss_and_gradient_of_the_autoencoder_are_those_of_saelens():
    at = peers()
    dictionary = dictionaries.matching_pursuit(40, 8, measure=squared_error, aux_weight=0.0)
    params = {"decoder": at["atoms"], "decoder_bias": at["bias"]}
    stats = base.new_stats(40)

    @jax.jit
    @jax.value_and_grad
    def value(params):
        return dictionary.loss(params, stats, at["x"], at["x"], jax.random.key(0))[0]

    loss, gradient = value(params)
    np.testing.assert_allclose(loss, at["saelens_loss"], rtol=1e-5)
    for name in params:
        expected = at[f"saelens_{name.removeprefix('decoder_')}_gradient"]
        assert float(jnp.abs(expected).max()) > 0.1
        np.testing.assert_allclose(gradient[name], expected, atol=1e-5, err_msg=name)
