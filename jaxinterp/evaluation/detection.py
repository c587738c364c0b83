"""How well scores or decisions find what is there: the area under the curve, precision, recall."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Real
from scipy.stats import rankdata


class Detection(NamedTuple):
    """Decisions against the truth.

    Attributes:
        precision: share of what was decided on that is there; 0 where nothing was.
        recall: share of what is there that was decided on.
        f1: harmonic mean of the two.
    """

    precision: float
    recall: float
    f1: float


def precision_recall(
    decided: Bool[Array | np.ndarray, "..."], truth: Bool[Array | np.ndarray, "..."]
) -> Detection:
    """Precision, recall and F1 of yes-or-no decisions.

    Args:
        decided: what was found.
        truth: what is there, of the same shape.

    Raises:
        ValueError: other shapes, or nothing is there to be found.
    """
    _check_shapes("decisions", decided, truth)
    decided, truth = np.asarray(decided, bool).ravel(), np.asarray(truth, bool).ravel()
    if not truth.any():
        raise ValueError("nothing is there to be found: recall is not defined")
    both = float((decided & truth).sum())
    return Detection(
        both / max(float(decided.sum()), 1.0),
        both / float(truth.sum()),
        2 * both / float(decided.sum() + truth.sum()),
    )


def roc_auc(
    scores: Real[Array | np.ndarray, "..."], truth: Bool[Array | np.ndarray, "..."]
) -> float:
    r"""Area under the receiver operating curve: $P(s_+ > s_-) + \frac12 P(s_+ = s_-)$.

    Args:
        scores: higher where it is more likely there.
        truth: what is there, of the same shape.

    Raises:
        ValueError: other shapes, a score that is NaN, or all or nothing is there: there are no
            pairs to compare.

    Reference:
        Hanley & McNeil (1982): the Mann-Whitney statistic, ties counted by half.
    """
    _check_shapes("scores", scores, truth)
    scores, truth = np.asarray(scores, np.float64).ravel(), np.asarray(truth, bool).ravel()
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN")
    yes, no = int(truth.sum()), int((~truth).sum())
    if not yes or not no:
        raise ValueError(f"{yes} positives and {no} negatives: the curve needs both")
    return float((rankdata(scores)[truth].sum() - yes * (yes + 1) / 2) / (yes * no))


def _check_shapes(name: str, values: Array | np.ndarray, truth: Array | np.ndarray) -> None:
    if np.shape(values) != np.shape(truth):
        raise ValueError(f"{name} of shape {np.shape(values)} for a truth of {np.shape(truth)}")
