import numpy as np
import pytest

from jaxinterp.evaluation import detection


def test_scores_of_detection_are_scikit_learn_s(rng):
    from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

    truth, scores = rng.random(200) < 0.3, rng.integers(0, 6, 200)
    np.testing.assert_allclose(detection.roc_auc(scores, truth), roc_auc_score(truth, scores))
    found = detection.precision_recall(scores > 3, truth)
    expected = [f(truth, scores > 3) for f in (precision_score, recall_score, f1_score)]
    np.testing.assert_allclose(found, expected)
    assert detection.precision_recall(np.zeros(3, bool), np.ones(3, bool)) == (0, 0, 0)
    with pytest.raises(ValueError, match="0 positives and 2 negatives"):
        detection.roc_auc(np.ones(2), np.zeros(2, bool))
    with pytest.raises(ValueError, match="nothing is there"):
        detection.precision_recall(np.ones(2, bool), np.zeros(2, bool))
    with pytest.raises(ValueError, match=r"decisions of shape \(1,\) for a truth of \(2,\)"):
        detection.precision_recall(np.ones(1, bool), np.ones(2, bool))
    with pytest.raises(ValueError, match=r"scores of shape \(3,\) for a truth of \(2,\)"):
        detection.roc_auc(np.ones(3), np.asarray([True, False]))
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        detection.roc_auc(np.asarray([1.0, np.nan]), np.asarray([True, False]))
