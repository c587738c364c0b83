import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import dictionaries
from jaxinterp.dictionaries import hyperdimensional as hd


def test_the_package_brings_the_module_itself():
    """It would be there too once anything else has imported it."""
    assert "import hyperdimensional as hyperdimensional" in inspect.getsource(dictionaries)


def test_two_bound_pairs_are_read_back_and_the_cosine_is_one_over_root_two():
    book = hd.random_codebook(jax.random.key(0), 2000, 4096)
    assert set(np.unique(book)) == {-1.0, 1.0}
    which = jax.random.randint(jax.random.key(1), (200, 4), 0, 2000)
    keys, values = book[which[:, :2]], book[which[:, 2:]]
    read = jax.jit(hd.cleanup)(hd.unbind(hd.pairs(keys, values), keys[:, 0]), book)
    np.testing.assert_array_equal(read.index, which[:, 2])
    np.testing.assert_allclose(read.cosine.mean(), hd.member_cosine(2), atol=0.02)
    assert float(read.margin.min()) > 0.5
    without = hd.cleanup(hd.pairs(keys, values), book)  # not unbound, it is like no symbol
    assert float(without.cosine.mean()) < 0.1


@pytest.mark.parametrize("members", [3, 8])
def test_overlaps_of_bundles_are_the_closed_forms(members):
    book = hd.random_codebook(jax.random.key(2), members, 40_000)
    cosine = hd.cosines(hd.bundle(book), book)
    np.testing.assert_allclose(cosine, hd.member_cosine(members), atol=0.02)
    overlap = (hd.majority(book)[None] * book).mean(1)
    np.testing.assert_allclose(overlap, hd.majority_overlap(members), atol=0.02)


@pytest.mark.parametrize(("dimension", "members"), [(128, 12), (64, 3)])
def test_recall_from_a_bundle_is_what_the_closed_form_says(dimension, members):
    """Members are drawn anew and the rest of the codebook with them, 2000 times."""

    def trial(key):
        book = hd.random_codebook(key, 99 + members, dimension)
        others = jnp.concatenate([book[:1], book[members:]])  # the member and what is not in it
        return hd.cleanup(hd.bundle(book[:members]), others).index == 0

    right = jax.jit(jax.vmap(trial))(jax.random.split(jax.random.key(3), 2000)).mean()
    told = hd.recall_probability(dimension, members, 100)
    assert 0.2 < told < 0.99
    np.testing.assert_allclose(right, told, atol=0.035)


def test_an_order_is_read_back_by_turning():
    book = hd.random_codebook(jax.random.key(4), 50, 2048)
    members = jnp.asarray([7, 7, 3, 41])
    whole = hd.sequence(book[members])
    read = [int(hd.cleanup(hd.permute(whole, -i), book).index) for i in range(4)]
    assert read == members.tolist()
    np.testing.assert_array_equal(hd.permute(hd.permute(whole, 5), -5), whole)
    plain = hd.cosines(hd.bundle(book[members]), hd.bundle(book[members[::-1]])[None])
    np.testing.assert_allclose(plain, plain.max())  # a bundle has no order


def test_impossible_readings_are_refused():
    book = hd.random_codebook(jax.random.key(0), 4, 16)
    with pytest.raises(ValueError, match="codebook of 1 symbols"):
        hd.cleanup(book[0], book[:1])
    with pytest.raises(ValueError, match="dimension 15 for a codebook of 16"):
        hd.cleanup(jnp.ones(15), book)
    with pytest.raises(ValueError, match="members=0"):
        hd.recall_probability(16, 0, 4)
