"""Selection by groups, as GPUs do it, against `lax.top_k` on a CPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxinterp.dictionaries.sparsify import largest
from jaxinterp.grouped_selection import by_groups
from jaxinterp.selection import largest_places


def rows(kind, m):
    draw = np.random.default_rng(m)
    x = draw.standard_normal((16, m)).astype(np.float32)
    if kind == "tied":
        return np.round(2 * x)
    if kind == "ascending":
        return np.sort(x, axis=1)
    if kind == "infinite":
        x[:, ::3], x[0], x[1, : m // 2] = -np.inf, -np.inf, np.inf
    if kind == "not a number":
        x[:, m // 2 :: 97] = np.nan
    return x


# Rows of whole groups and not; two and three rounds of groups; one number; a row sorted whole.
@pytest.mark.parametrize(("m", "k"), [(1024, 32), (5001, 28), (65_536, 20), (1025, 1), (600, 40)])
@pytest.mark.parametrize("kind", ["plain", "tied", "ascending", "infinite", "not a number"])
def test_numbers_and_places_are_those_of_top_k(kind, m, k):
    x = jnp.asarray(rows(kind, m))
    got, want = by_groups(x, k=k), lax.top_k(x, k)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


def test_members_of_a_batch_are_searched_alone_and_gradients_reach_what_was_chosen():
    x = jnp.asarray(rows("plain", 1500)).reshape(2, 8, 1500)
    got, want = jax.vmap(lambda x: by_groups(x, k=9))(x), lax.top_k(x, 9)
    np.testing.assert_array_equal(got[1], want[1])
    slope = jax.grad(lambda x: by_groups(x, k=9)[0].sum())(x[0])
    np.testing.assert_array_equal(np.flatnonzero(slope[3]), np.sort(want[1][0, 3]))


@pytest.mark.parametrize("find", [largest, largest_places])
def test_a_gpu_sorts_few_of_the_numbers_and_others_the_row(find):
    m, k = 65_536, 32
    x = jax.ShapeDtypeStruct((4, m), jnp.float32)
    found = {}
    for platform in ("cuda", "tpu"):
        exported = jax.export.export(jax.jit(lambda x: find(x, k)), platforms=[platform])(x)
        sorts = re.findall(r'"chlo.top_k".* : \(tensor<4x(\d+)xf32>', exported.mlir_module())
        found[platform] = [int(length) for length in sorts]
    assert found["tpu"] == [m]
    assert len(found["cuda"]) > 1
    assert sum(found["cuda"]) < m / 64
