"""Metrics against their definitions in float64, closed forms, and the same numbers in pieces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinterp.dictionaries import base, metrics
from tests.programs import shapes_in

N, D, WIDTH, K = 400, 9, 30, 4


@pytest.fixture
def pair(rng):
    """A target far from the origin and a biased, noisy reconstruction of it."""
    y = (rng.normal(size=(N, D)) * np.arange(1, D + 1) + 200.0).astype(np.float32)
    y_hat = y.mean(0) + 0.7 * (y - y.mean(0)) + 0.3 * rng.normal(size=(N, D)) + 0.1
    return y, y_hat.astype(np.float32)


def definitions(y, y_hat):
    """Straight from the docstrings, in float64, over all rows at once."""
    y, y_hat = y.astype(np.float64), y_hat.astype(np.float64)
    e, mean = y - y_hat, y.mean(0)
    norms, hat_norms = np.linalg.norm(y, axis=1), np.linalg.norm(y_hat, axis=1)
    about, about_hat = y - mean, y_hat - mean
    return {
        "variance_explained": 1 - (e**2).sum() / (about**2).sum(),
        "squared_error": (e**2).sum(1).mean(),
        "cosine": ((y * y_hat).sum(1) / norms / hat_norms).mean(),
        "norm_ratio": (hat_norms / norms).mean(),
        "relative_reconstruction_bias": (hat_norms**2).mean() / (y * y_hat).sum(1).mean(),
        "shrinkage": 1 - (about_hat**2).sum() / (about * about_hat).sum(),
    }


def agree(found, expected, tolerance):
    assert set(found) == set(expected)
    for name in expected:
        assert abs(float(found[name]) - expected[name]) < tolerance * max(1, abs(expected[name])), (
            f"{name}: {found[name]} and {expected[name]}"
        )


def test_one_batch_equals_the_definitions(pair):
    agree(jax.jit(lambda *a: metrics.fit(*a).metrics())(*pair), definitions(*pair), 2e-5)


@pytest.mark.parametrize("cuts", [[1], [7, 7, 100], [50, 399]])
def test_chunks_equal_one_batch(pair, cuts):
    """Chunks in order of size, so that their means differ and every cross term counts."""
    order = np.argsort(pair[0][:, -1])
    pieces = zip(*(np.split(a[order], cuts) for a in pair), strict=True)
    parts = [metrics.to_host(metrics.fit(*map(jnp.asarray, p))) for p in pieces if len(p[0])]
    total = functools.reduce(metrics.merge_fits, parts)
    agree(total.metrics(), definitions(*pair), 2e-5)
    np.testing.assert_allclose(total.mean, pair[0].astype(np.float64).mean(0), rtol=1e-6)


def test_rows_of_zeros_have_no_norm_ratio(pair):
    y, y_hat = pair
    whole = metrics.to_host(metrics.fit(*map(jnp.asarray, pair)))
    zeros = metrics.to_host(metrics.fit(jnp.zeros((3, D)), jnp.asarray(y_hat[:3])))
    assert zeros.norm_ratio() == 0
    assert metrics.merge_fits(whole, zeros).norm_ratio() == whole.norm_ratio()
    y = jnp.concatenate([y, jnp.zeros((3, D))])
    together = metrics.fit(y, jnp.concatenate([y_hat, y_hat[:3]]))
    assert abs(float(together.norm_ratio()) - whole.norm_ratio()) < 1e-6


def test_merging_is_traceable_and_keeps_float32_on_the_device(pair):
    halves = [(a[:150], a[150:]) for a in pair]
    merged = jax.jit(lambda a, b: metrics.merge_fits(metrics.fit(*a), metrics.fit(*b)))(
        *zip(*halves, strict=True)
    )
    assert merged.scatter.dtype == jnp.float32
    agree(merged.metrics(), definitions(*pair), 5e-5)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.05, 2.0), st.integers(0, 5))
def test_a_scaled_reconstruction_has_the_bias_it_was_given(scale, seed):
    y = np.random.default_rng(seed).normal(size=(50, 4)).astype(np.float32) + 3
    whole = metrics.fit(jnp.asarray(y), jnp.asarray(scale * y))
    assert abs(float(whole.relative_reconstruction_bias()) - scale) < 1e-4
    assert abs(float(whole.norm_ratio()) - scale) < 1e-4
    assert abs(float(whole.mean_cosine()) - 1) < 1e-4
    around = y.mean(0) + scale * (y - y.mean(0))
    centred = metrics.fit(jnp.asarray(y), jnp.asarray(around))
    assert abs(float(centred.shrinkage()) - (1 - scale)) < 1e-4
    assert abs(float(centred.variance_explained()) - (1 - (1 - scale) ** 2)) < 1e-4


def test_bias_is_the_best_rescaling(pair):
    """gamma minimises E|y_hat / gamma - y|^2, found by a search."""
    y, y_hat = (a.astype(np.float64) - 190.0 for a in pair)
    found = float(
        metrics.fit(
            jnp.asarray(y, jnp.float32), jnp.asarray(y_hat, jnp.float32)
        ).relative_reconstruction_bias()
    )
    grid = found + np.linspace(-0.01, 0.01, 201)
    best = grid[np.argmin([((y_hat / g - y) ** 2).sum() for g in grid])]
    assert abs(best - found) < 1.5e-4


def test_missing_directions_are_no_shrinkage(rng):
    y = rng.normal(size=(2000, 6)).astype(np.float32) + 50
    y_hat = y.copy()
    y_hat[:, 3:] = y[:, 3:].mean(0)  # half of the variance is lost, the rest is exact
    found = metrics.fit(jnp.asarray(y), jnp.asarray(y_hat))
    assert abs(float(found.shrinkage())) < 1e-4
    assert abs(float(found.variance_explained()) - 0.5) < 0.03


def test_crosscoder_shapes_are_flattened(pair):
    y, y_hat = (a[:, :8] for a in pair)
    flat = metrics.fit(jnp.asarray(y), jnp.asarray(y_hat)).metrics()
    deep = metrics.fit(*(jnp.asarray(a.reshape(N, 2, 4)) for a in (y, y_hat))).metrics()
    agree(deep, {name: float(v) for name, v in flat.items()}, 1e-6)


@pytest.fixture
def codes(rng):
    indices = np.stack([rng.permutation(WIDTH // 2)[:K] for _ in range(N)])  # half is dead
    values = rng.normal(size=(N, K)) * (rng.random((N, K)) < 0.8)
    values[:, 0] = 0.0
    indices[:, 1], values[:, 1] = 20, np.where(np.arange(N) < 150, 1.5, 0.0)
    return base.Codes(jnp.asarray(values, jnp.float32), jnp.asarray(indices, jnp.int32))


def test_sparse_and_dense_codes_have_the_same_usage(codes):
    dense = base.densify(codes, WIDTH)
    sparse, full = metrics.usage(codes, WIDTH), metrics.usage(dense, WIDTH)
    z = np.asarray(dense, np.float64)
    for one, two in zip(sparse, full, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(sparse.fired, (z != 0).sum(0))
    np.testing.assert_allclose(sparse.energy, (z**2).sum(0), rtol=1e-5)
    np.testing.assert_allclose(sparse.peak, np.maximum(z.max(0), 0), rtol=1e-6)
    expected = {
        "l0": (z != 0).sum(1).mean(),
        "l1": z.sum(1).mean(),
        "dead": (~(z != 0).any(0)).mean(),
        "dense": ((z != 0).mean(0) > 0.1).mean(),
    }
    agree(sparse.metrics(), expected, 1e-5)
    assert expected["dead"] > 0.4
    assert 0 < expected["dense"] < 0.6
    assert float(sparse.dense(above=0.37)) == pytest.approx(1 / WIDTH)


def test_usage_in_pieces_and_in_any_shape(codes):
    whole = metrics.usage(codes, WIDTH)
    cut = [jax.tree.map(lambda a, s=s: a[s], codes) for s in (slice(0, 33), slice(33, N))]
    a, b = (metrics.to_host(metrics.usage(part, WIDTH)) for part in cut)
    for one, two in zip(metrics.merge_usages(a, b), whole, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
    deep = jax.tree.map(lambda a: a.reshape(4, N // 4, K), codes)
    for one, two in zip(metrics.usage(deep, WIDTH), whole, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_no_batch_by_width_array_for_sparse_codes(codes):
    traced = jax.make_jaxpr(lambda c: metrics.usage(c, WIDTH))(codes)
    assert (N, WIDTH) not in shapes_in(traced.jaxpr)


def test_frequency_histogram_counts_every_latent():
    frequency = np.asarray([0.0, 0.0, 1e-9, 1e-6, 3e-4, 0.02, 0.5, 1.0])
    counts, edges, dead = metrics.frequency_histogram(frequency, bins=6, least=1e-6)
    np.testing.assert_allclose(edges, np.arange(-6, 1))
    assert counts.tolist() == [2, 0, 1, 0, 1, 2]
    assert dead == 2


def test_cosine_of_reading_and_writing():
    encoder = jnp.asarray([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0], [1.0, 1.0]])
    decoder = jnp.asarray([[5.0, 0.0], [0.0, -1.0], [1.0, 0.0], [1.0, 0.0]])
    found = metrics.encoder_decoder_cosine(encoder, decoder)
    np.testing.assert_allclose(found, [1, -1, 0, np.sqrt(0.5)], atol=1e-6)


def test_constant_and_zero_rows_give_finite_numbers():
    zero = jnp.zeros((5, 3))
    for name, value in metrics.fit(zero, zero).metrics().items():
        assert np.isfinite(value), name
