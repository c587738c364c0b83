import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxinterp.dictionaries import sparse_products
from jaxinterp.dictionaries.sparse_products import (
    gather_dot,
    gather_sum,
    scatter_outer,
)

N, K, D, WIDTH = 23, 3, 5, 11


@pytest.fixture(params=["one block", "blocks and a rest"])
def blocks(request, monkeypatch):
    """23 rows in one block, or in blocks of 4 (of 1 for the scatter)."""
    if request.param != "one block":
        monkeypatch.setattr(sparse_products, "_CACHED", 4 * K * D)


@pytest.fixture
def parts(rng):
    values = jnp.asarray(rng.normal(size=(N, K)), jnp.float32)
    x = jnp.asarray(rng.normal(size=(N, D)), jnp.float32)
    atoms = jnp.asarray(rng.normal(size=(WIDTH, D)), jnp.float32)
    indices = jnp.asarray(rng.integers(0, WIDTH - 1, size=(N, K)))  # repeats, and one unused atom
    return values, x, atoms, indices


def dense(values, indices):
    """Codes as (n, width), in float64; repeated indices add up."""
    codes = np.zeros((N, WIDTH))
    np.add.at(codes, (np.arange(N)[:, None], np.asarray(indices)), np.asarray(values, np.float64))
    return codes


def test_products_equal_the_dense_ones(blocks, parts):
    values, x, atoms, indices = parts
    codes = dense(values, indices)
    everything = np.asarray(x, np.float64) @ np.asarray(atoms, np.float64).T
    expected = np.take_along_axis(everything, np.asarray(indices), 1)
    np.testing.assert_allclose(gather_dot(x, atoms, indices), expected, atol=1e-5)
    np.testing.assert_allclose(gather_sum(values, atoms, indices), codes @ atoms, atol=1e-5)
    outer = scatter_outer(values, x, indices, atoms)
    np.testing.assert_allclose(outer, codes.T @ x, atol=1e-5)
    assert not outer[WIDTH - 1].any()


def test_derivatives_of_all_three_are_right_to_second_order(blocks, parts):
    values, x, atoms, indices = parts
    like = jnp.zeros_like(atoms)
    for f, arguments in (
        (lambda x, a: gather_dot(x, a, indices), (x, atoms)),
        (lambda v, a: gather_sum(v, a, indices), (values, atoms)),
        (lambda v, x: scatter_outer(v, x, indices, like), (values, x)),
    ):
        check_grads(jax.jit(f), arguments, order=2, modes=["rev"], atol=1e-2, rtol=1e-2)


@pytest.mark.slow
def test_a_batch_of_dictionaries_is_a_loop_over_them(blocks, parts):
    values, x, atoms, indices = parts
    many = jnp.stack([atoms, 2 * atoms, -atoms])
    for f in (
        lambda a: gather_dot(x, a, indices),
        lambda a: gather_sum(values, a, indices),
        lambda a: jax.grad(lambda a: jnp.square(gather_sum(values, a, indices)).sum())(a),
    ):
        together = jax.jit(jax.vmap(f))(many)
        np.testing.assert_allclose(together, jnp.stack([f(a) for a in many]), atol=1e-4)


def test_sums_are_formed_in_float32_under_bfloat16():
    """1024 times 1/128: bfloat16 stops at 2, where the next number is 1/64 away."""
    values = jnp.full((1024, 1), 1 / 128, jnp.bfloat16)
    x, indices = jnp.ones((1024, 1), jnp.bfloat16), jnp.zeros((1024, 1), jnp.int32)
    total = scatter_outer(values, x, indices, jnp.zeros((2, 1), jnp.bfloat16))
    assert total.dtype == jnp.bfloat16
    np.testing.assert_array_equal(total.astype(jnp.float32), [[8.0], [0.0]])


def test_gradients_have_the_types_of_what_they_belong_to(parts):
    """Products of bfloat16 and float32 are float32, and so are the cotangents that come back."""
    values, x, atoms, indices = parts
    for f, arguments in (
        (lambda x, a: gather_dot(x, a, indices), (x, atoms)),
        (lambda v, a: gather_sum(v, a, indices), (values, atoms)),
        (lambda v, x: scatter_outer(v, x, indices, atoms), (values, x)),
    ):
        half = arguments[0].astype(jnp.bfloat16)
        mixed, exact = (
            jax.vjp(f, first, arguments[1])[1](f(*arguments)) for first in (half, arguments[0])
        )
        assert [g.dtype for g in mixed] == [jnp.bfloat16, jnp.float32]
        for ours, expected in zip(mixed, exact, strict=True):
            np.testing.assert_allclose(ours.astype(jnp.float32), expected, atol=0.2, rtol=0.02)


def test_nothing_of_batch_by_k_by_d_is_made_on_a_cpu():
    n, k, d = 4096, 16, 64

    def loss(values, atoms, indices):
        return jnp.square(gather_sum(values, atoms, indices)).sum()

    arguments = jnp.ones((n, k)), jnp.ones((128, d)), jnp.zeros((n, k), jnp.int32)
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * n * k * d / 2
