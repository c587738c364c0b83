import numpy as np
import pytest

from jaxinterp.evaluation import ranking


def test_ranks_and_rank_correlations_are_scipy_s(rng):
    from scipy.stats import spearmanr

    a, b = rng.integers(0, 9, (5, 30)) * 1.0, rng.normal(size=(5, 30))
    found = ranking.spearman(a, b)
    expected = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(found, expected)
    assert np.isnan(ranking.spearman(np.ones((1, 4)), b[:1, :4])).all()
    np.testing.assert_array_equal(ranking.ranks(np.asarray([3.0, 9, 3, 1])), [2.5, 1, 2.5, 4])
    with pytest.raises(ValueError, match="no items"):
        ranking.mean_rank(b, np.zeros(30, bool))
