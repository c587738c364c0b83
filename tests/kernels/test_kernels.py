"""Kernels against the functions that they must equal, as ordinary operations on a CPU."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.dictionaries.base import Codes
from jaxinterp.dictionaries.sparse_products import gather_sum
from jaxinterp.dictionaries.sparsify import largest
from jaxinterp.kernels import encode_topk, sparse_decode

# Neither rows nor width fill their last blocks; more latents than a register's lanes; all of them.
SIZES = [
    pytest.param(21, 7, 301, 9, marks=pytest.mark.slow),
    pytest.param(9, 4, 300, 140, marks=pytest.mark.slow),
    (8, 5, 40, 40),
]


def whole(x, encoder, bias, k):
    return largest(x @ encoder.T + bias[None], k)


@pytest.mark.parametrize(("n", "d", "width", "k"), SIZES)
def test_fused_top_k_orders_ties_as_the_reference(rng, n, d, width, k):
    """Small whole numbers: scores are exact in any order of summing, and most have equals."""
    x, encoder = (jnp.asarray(rng.integers(-2, 3, (m, d)), jnp.float32) for m in (n, width))
    bias = jnp.asarray(rng.integers(-1, 2, width), jnp.float32)
    want = whole(x, encoder, bias, k)
    assert len(np.unique(want.values[0])) < k
    got = Codes(*encode_topk(x, encoder, bias, k, rows=8, columns=128, interpret=True))
    np.testing.assert_array_equal(got.values, want.values)
    np.testing.assert_array_equal(got.indices, want.indices)


def test_fused_top_k_in_bfloat16_keeps_the_type_and_adds_in_float32(rng):
    x, encoder = (jnp.asarray(rng.normal(size=(m, 64)), jnp.bfloat16) for m in (8, 200))
    bias = jnp.asarray(rng.normal(size=200), jnp.bfloat16)
    got = Codes(*encode_topk(x, encoder, bias, 5, rows=8, columns=128, interpret=True))
    exact = whole(*(a.astype(jnp.float32) for a in (x, encoder, bias)), 5)
    assert got.values.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.indices, exact.indices)
    np.testing.assert_allclose(np.asarray(got.values, np.float32), exact.values, rtol=2**-8)


@pytest.mark.parametrize(("n", "k", "chunk"), [(11, 7, 4), (16, 3, 8)])
def test_sparse_decode_equals_float64(rng, n, k, chunk):
    atoms = rng.normal(size=(50, 12)).astype(np.float32)
    values = rng.normal(size=(n, k)).astype(np.float32)
    indices = rng.integers(0, 50, (n, k))
    indices[:, 1] = indices[:, 0]  # the same atom twice
    want = np.einsum("nk,nkd->nd", *(a.astype(np.float64) for a in (values, atoms[indices])))
    given = jnp.asarray(values), jnp.asarray(atoms), jnp.asarray(indices)
    got = sparse_decode(*given, chunk=chunk, interpret=True)
    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(got, gather_sum(*given), atol=1e-6)


def test_a_tpu_gets_kernels_that_write_no_large_array():
    n, d, width, k = 1024, 256, 4096, 32
    shape = jax.ShapeDtypeStruct
    x, encoder, bias = (
        shape((n, d), "float32"),
        shape((width, d), "float32"),
        shape((width,), "float32"),
    )
    values, indices = shape((n, k), "float32"), shape((n, k), "int32")
    for kernel, large, arguments in (
        (partial(encode_topk, k=k), f"{n}x{width}x", (x, encoder, bias)),
        (sparse_decode, f"{n}x{k}x{d}x", (values, encoder, indices)),
    ):
        text = jax.export.export(jax.jit(kernel), platforms=["tpu"])(*arguments).mlir_module()
        assert "tpu_custom_call" in text
        assert large not in text


def test_a_call_site_chooses_by_platform(rng):
    """What the package tells call sites to write: the kernel on TPUs, the reference elsewhere."""
    k = 4
    x, encoder = (jnp.asarray(rng.normal(size=(m, 8)), jnp.float32) for m in (16, 256))
    bias = jnp.zeros(256)

    @jax.jit
    def chosen(x, encoder, bias):
        kernel, reference = (partial(f, k=k) for f in (encode_topk, whole))
        found = jax.lax.platform_dependent(
            x, encoder, bias, tpu=kernel, default=lambda *given: tuple(reference(*given))
        )
        return Codes(*found)

    np.testing.assert_array_equal(
        chosen(x, encoder, bias).indices, whole(x, encoder, bias, k).indices
    )
    texts = {
        platform: jax.export.export(chosen, platforms=[platform])(x, encoder, bias).mlir_module()
        for platform in ("tpu", "cuda")
    }
    assert "tpu_custom_call" in texts["tpu"]
    assert "16x256x" not in texts["tpu"]
    assert "tpu_custom_call" not in texts["cuda"]


def test_blocks_and_types_that_do_not_fit_are_refused():
    x, encoder, bias = jnp.zeros((4, 3)), jnp.zeros((10, 3)), jnp.zeros(10)
    with pytest.raises(ValueError, match="k=11 latents per row with width=10"):
        encode_topk(x, encoder, bias, 11)
    with pytest.raises(ValueError, match="columns=100"):
        encode_topk(x, encoder, bias, 2, columns=100)
    with pytest.raises(ValueError, match="atoms are bfloat16"):
        sparse_decode(x, encoder.astype(jnp.bfloat16), jnp.zeros((4, 3), jnp.int32))
