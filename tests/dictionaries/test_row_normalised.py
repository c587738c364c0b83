"""Dictionaries that normalise each row by itself; the codes are also checked against SAELens'."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp import dictionaries
from jaxinterp.activations.normalise import Affine
from jaxinterp.dictionaries import formats, registry
from jaxinterp.dictionaries.fold import fold, unit_norms
from jaxinterp.interventions.latents import set_latents

OPTIONS = {"recipe": "topk", "width": 24, "k": 3, "normalise": "layer_norm"}
OPTIONS |= {"centre": "zero_centre"}


@cache
def made():
    """(dictionary, learner's step, state after a few steps, rows)."""
    dictionary = registry.build("row_normalised", OPTIONS)
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(64, 8)) * generator.uniform(0.1, 30, (64, 1)) + 2
    x = jnp.asarray(rows, jnp.float32)
    learner = dictionaries.learner(dictionary, optax.adam(1e-2))
    step, state = jax.jit(learner.step), jax.jit(learner.init)(jax.random.key(0), x)
    losses = []
    for _ in range(30):
        state, info = step(state, x)
        losses.append(float(info["loss"]))
    return dictionary, state, x, losses


def test_codes_know_neither_length_nor_mean_and_the_reconstruction_has_both():
    dictionary, state, x, losses = made()
    assert losses[-1] < 0.7 * losses[0]
    codes = dictionary.encode(state.params, x)
    moved = dictionary.encode(state.params, 5 * x + 3)
    np.testing.assert_array_equal(moved.codes.indices, codes.codes.indices)
    np.testing.assert_allclose(moved.codes.values, codes.codes.values, atol=1e-3)
    x_hat = np.asarray(dictionary.decode(state.params, codes))
    np.testing.assert_allclose(
        dictionary.decode(state.params, moved), 5 * x_hat + 3, atol=1e-2, rtol=1e-3
    )
    # From the definition, in float64.
    rows, p = np.asarray(x, np.float64), jax.tree.map(np.asarray, state.params)
    mean, spread = rows.mean(1, keepdims=True), rows.std(1, ddof=1, keepdims=True)
    scores = (rows - mean) / (spread + 1e-5) - p["decoder_bias"]
    scores = np.maximum(scores @ p["encoder"].T + p["encoder_bias"], 0)
    kept = np.where(scores >= np.sort(scores, 1)[:, -3:-2], scores, 0)
    expected = (kept @ p["decoder"] + p["decoder_bias"]) * spread + mean
    np.testing.assert_allclose(x_hat, expected, rtol=1e-4, atol=1e-4)


def test_a_row_is_coded_alike_in_any_batch_and_compiled():
    dictionary, state, x, _ = made()
    codes = dictionary.encode(state.params, x)
    alone = dictionary.encode(state.params, x[5])
    np.testing.assert_allclose(alone.codes.values, codes.codes.values[5], atol=1e-5)
    compiled = jax.jit(dictionary.encode)(state.params, x.reshape(8, 8, 8))
    flat = jax.tree.map(lambda a: a.reshape(64, -1), compiled)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), flat, codes)


def test_gradients_are_finite_where_a_row_has_no_length():
    dictionary, state, _, _ = made()
    for kind in ("layer_norm", "root_length"):
        dictionary = registry.build("row_normalised", OPTIONS | {"normalise": kind})

        def total(x, dictionary=dictionary):
            return dictionary.decode(state.params, dictionary.encode(state.params, x)).sum()

        assert np.isfinite(jax.jit(jax.grad(total))(jnp.zeros((2, 8)))).all()


def test_an_edited_latent_writes_at_the_scale_of_its_row():
    dictionary, state, x, _ = made()
    latent = dictionary.encode(state.params, x).codes.indices[0, 0]
    rows = jnp.stack([x[0], 10 * x[0]])
    change = set_latents(dictionary, state.params, rows, latent[None]) - rows
    np.testing.assert_allclose(change[1], 10 * change[0], rtol=1e-3, atol=1e-3)
    assert float(jnp.abs(change[0]).max()) > 0.1


def test_it_is_not_folded_but_wrapped():
    dictionary, state, x, _ = made()
    affine = Affine(np.arange(8.0), np.full(8, 2.0), np.full(8, 0.5))
    raw, params = fold(dictionary, state.params, affine)
    assert raw is not dictionary
    y = (x - jnp.arange(8.0)[None]) * 2
    expected = dictionary.encode(state.params, y).codes.values
    np.testing.assert_allclose(raw.encode(params, x).codes.values, expected, atol=1e-4)
    with pytest.raises(ValueError, match="lengths of atoms can't be moved"):
        unit_norms(dictionary, state.params)


def test_a_file_gives_back_the_same_dictionary(tmp_path):
    dictionary, state, x, _ = made()
    formats.save(tmp_path, "row_normalised", OPTIONS, state.params)
    again, params, _ = formats.load(tmp_path)
    expected = dictionary.encode(state.params, x)
    jax.tree.map(np.testing.assert_array_equal, again.encode(params, x), expected)


def test_a_recipe_with_a_rest_is_refused():
    options = {"recipe": "temporal", "width": 16, "k": 2, "heads": 2, "bottleneck": 4}
    dictionary = registry.build("row_normalised", options)
    x = jnp.ones((2, 3, 8))
    params = jax.eval_shape(dictionary.init, jax.random.key(0), x)
    with pytest.raises(ValueError, match="variants without a rest"):
        jax.eval_shape(dictionary.encode, params, x)
