"""InfoMEC: planted codes, and scikit-learn's information and regressions."""

from functools import cache

import numpy as np
import pytest

from jaxinterp.evaluation import disentanglement


@cache
def sources():
    return np.random.default_rng(0).integers(0, 4, (1500, 3))


def test_a_permuted_copy_is_disentangled_and_a_modular_sum_is_not():
    s = sources()
    relabel = np.asarray([[2, 0, 3, 1], [1, 3, 0, 2], [3, 2, 1, 0]])
    copy = np.stack([relabel[j][s[:, i]] for j, i in enumerate((1, 2, 0))], 1)
    constant = np.full((1500, 1), 5)
    good = disentanglement.info_mec(s, np.concatenate([copy, constant], 1))
    assert min(good[:3]) > 0.98
    assert good.active.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(good.information.argmax(1), [2, 0, 1])
    mixed = np.stack([s[:, 0] + s[:, 1], s[:, 1] + s[:, 2], s[:, 0] + s[:, 2]], 1) % 4
    bad = disentanglement.info_mec(s, mixed)
    assert bad.modularity < 0.3
    assert bad.compactness < 0.3
    assert bad.explicitness < 0.05


def test_information_is_scikit_learn_s():
    from sklearn.metrics import mutual_info_score

    s, z = sources(), (sources() + np.random.default_rng(1).integers(0, 2, (1500, 3))) % 4
    found = disentanglement.info_mec(s, z).information
    for i, j in np.ndindex(3, 3):
        own = mutual_info_score(s[:, i], s[:, i])
        np.testing.assert_allclose(found[i, j], mutual_info_score(s[:, i], z[:, j]) / own)


def test_explicitness_is_that_of_a_logistic_regression_on_one_hot_latents():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    rng = np.random.default_rng(1)
    s = np.where(rng.random((1500, 2)) < 0.5, 0, rng.integers(0, 3, (1500, 2)))  # not balanced
    z = np.where(rng.random((1500, 2)) < 0.3, rng.integers(0, 3, (1500, 2)), s)
    hot = np.concatenate([z[:, [j]] == np.arange(3) for j in range(2)], 1)
    expected = []
    for source in s.T:
        weight = 1 / np.bincount(source)[source]
        fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=2000, class_weight="balanced")
        p = fitted.fit(hot, source).predict_proba(hot)
        expected.append(1 - log_loss(source, p, sample_weight=weight) / np.log(3))
    found = disentanglement.info_mec(s, z).explicitness
    np.testing.assert_allclose(found, np.mean(expected), atol=1e-3)


@pytest.mark.parametrize(
    ("s", "z", "said"),
    [
        (np.zeros((4, 2), int), np.arange(8).reshape(4, 2), "source 0 has the value 0"),
        (np.arange(8).reshape(4, 2), np.zeros((4, 2), int), "2 sources and 0 active latents"),
        (np.arange(8).reshape(4, 2), np.arange(6).reshape(3, 2), "4 rows of sources and 3"),
    ],
)
def test_what_has_no_disentanglement_is_refused(s, z, said):
    with pytest.raises(ValueError, match=said):
        disentanglement.info_mec(s, z)
