import numpy as np
import pytest
from scipy import stats

from jaxinterp.evaluation.stability import agreement, interval, over_seeds


def test_agreement_is_one_up_to_order_and_length_and_minds_the_sign():
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(20, 8)).astype(np.float32)
    order = rng.permutation(20)
    same = atoms[order] * rng.uniform(0.5, 2, (20, 1)).astype(np.float32)
    turned = atoms.copy()
    turned[:5] *= -1
    tables = agreement(np.stack([atoms, same, turned]))
    for table in tables:
        np.testing.assert_allclose(table[0, 1], 1, atol=1e-6)
        np.testing.assert_array_equal(table, table.T)
        assert table[0, 2] < 0.95


def test_one_to_one_is_stricter_than_the_nearest_atom():
    """All atoms of one dictionary are the first two of the other."""
    atoms = np.eye(6, dtype=np.float32)
    crowded = atoms[[0, 1, 0, 1, 0, 1]]
    found = agreement(np.stack([atoms, crowded]))
    np.testing.assert_allclose(found.matched[0, 1], 2 / 6, atol=1e-6)
    np.testing.assert_allclose(found.nearest[0, 1], (1 + 2 / 6) / 2, atol=1e-6)


def test_the_interval_covers_what_seeds_give():
    """Tables t_ij = m + (a_i + a_j) / 2: pairs that share a seed move together."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        a = rng.normal(scale=0.1, size=5)
        table = 0.6 + (a[:, None] + a[None]) / 2
        found = interval(table)
        inside += found.low <= 0.6 <= found.high
    assert 0.9 < inside / 400 < 0.99
    pairs = table[np.triu_indices(5, 1)]
    np.testing.assert_allclose(found.mean, pairs.mean())


def test_the_interval_of_independent_seeds_is_students():
    values = np.random.default_rng(1).normal(3.0, 0.5, 7)
    found = over_seeds(values)
    known = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(found, (values.mean(), known.low, known.high))


def test_too_few_seeds_are_refused():
    with pytest.raises(ValueError, match="1 dictionaries"):
        agreement(np.ones((1, 3, 2), np.float32))
    with pytest.raises(ValueError, match="2 seeds"):
        interval(np.ones((2, 2)))
    with pytest.raises(ValueError, match="1 seeds"):
        over_seeds(np.ones(1))
