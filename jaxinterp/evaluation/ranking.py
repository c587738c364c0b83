"""Where items stand in a list that is sorted by scores."""

import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.stats import rankdata


def ranks(scores: Float[Array | np.ndarray, "... items"]) -> Float[np.ndarray, "... items"]:
    """Place of every item, 1 for the highest score; equal scores share their mean place."""
    return rankdata(-np.asarray(scores, np.float64), axis=-1)


def mean_rank(
    scores: Float[Array | np.ndarray, "n items"], chosen: Bool[np.ndarray, " items"]
) -> Float[np.ndarray, " n"]:
    """Mean place of the chosen items in each row's list.

    Raises:
        ValueError: no item is chosen.
    """
    if not chosen.any():
        raise ValueError("no items are chosen: their mean rank is not defined")
    return ranks(scores)[:, chosen].mean(1)


def spearman(
    a: Float[Array | np.ndarray, "n items"], b: Float[Array | np.ndarray, "n items"]
) -> Float[np.ndarray, " n"]:
    """Rank correlation of each pair of rows; NaN where one of them is constant.

    Reference:
        Spearman (1904); ties by mean ranks.
    """
    x, y = (ranks(scores) for scores in (a, b))
    x, y = (r - r.mean(1, keepdims=True) for r in (x, y))
    size = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.where(size > 0, (x * y).sum(1) / np.where(size > 0, size, 1.0), np.nan)
