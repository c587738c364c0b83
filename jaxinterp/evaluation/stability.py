"""Do dictionaries that differ in their seed only find the same atoms?

agreement(decoders).matched                # Hungarian matching, the stability of the literature
interval(agreement(decoders).matched)      # with its 95 % interval over seeds
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import stats

from jaxinterp.evaluation.recovery import cosines, match_atoms


class Agreement(NamedTuple):
    """Agreement of every two dictionaries; symmetric tables with ones on the diagonal.

    Attributes:
        matched: mean cosine over the one-to-one assignment of atoms with the largest sum.
        nearest: mean over the atoms of both of the cosine to the nearest atom of the other: never
            below `matched`, and 1 also where many atoms of one are the same atom of the other.
    """

    matched: Float[np.ndarray, "seeds seeds"]
    nearest: Float[np.ndarray, "seeds seeds"]


class Interval(NamedTuple):
    """A mean over seeds, or over pairs of them, and its uncertainty.

    Attributes:
        mean: over all.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    mean: float
    low: float
    high: float


def agreement(decoders: Float[Array | np.ndarray, "seeds width d"]) -> Agreement:
    r"""How far dictionaries of different seeds agree.

    $\mathrm{matched}(D, D') = \max_\pi \frac1F \sum_j \cos(D_j, D'_{\pi(j)})$. Dictionaries in d
    dimensions agree by chance as well: compare with random atoms, or with random choices of those
    that an archetypal dictionary may make.

    Args:
        decoders: atoms of each dictionary; cubic cost in the width for each pair.

    Returns:
        The tables. Atoms count as equal up to a positive factor; one of length zero has cosine 0.

    Raises:
        ValueError: fewer than two dictionaries.

    Reference:
        Fel et al. (2025), arXiv 2502.12892 (stability); Paulo & Belrose (2025), "Sparse
        autoencoders trained on the same data learn different features", arXiv 2501.16615.
    """
    n = len(decoders)
    if n < 2:
        raise ValueError(f"{n} dictionaries: agreement needs at least two")
    matched, nearest = np.eye(n), np.eye(n)
    for i in range(n):
        for j in range(i):
            table = np.asarray(cosines(jnp.asarray(decoders[i]), jnp.asarray(decoders[j])))
            matched[i, j] = matched[j, i] = match_atoms(table).cosine.mean()
            best = (table.max(0).mean() + table.max(1).mean()) / 2
            nearest[i, j] = nearest[j, i] = best
    return Agreement(matched, nearest)


def interval(table: Float[np.ndarray, "seeds seeds"]) -> Interval:
    r"""The mean over pairs of seeds, with a jackknife interval over seeds.

    Pairs that share a seed are not independent, so the spread of the pairs says too little. With
    $\bar t_{-i}$ the mean over the pairs without seed i, $s^2 = \frac{n-1}{n} \sum_i (\bar t_{-i} -
    \bar t_{-\cdot})^2$ and the interval is $\bar t \pm t_{n-1} s$, Student's t.

    Args:
        table: from `agreement`, of at least three seeds.

    Raises:
        ValueError: fewer than three seeds.
    """
    n = len(table)
    if n < 3:
        raise ValueError(f"{n} seeds: an interval needs at least three")
    pairs = np.triu(np.ones((n, n), bool), 1)
    mean = table[pairs].mean()
    without = []
    for i in range(n):
        kept = pairs.copy()
        kept[i], kept[:, i] = False, False
        without.append(table[kept].mean())
    error = np.sqrt((n - 1) / n * np.square(without - np.mean(without)).sum())
    half = stats.t.ppf(0.975, n - 1) * error
    return Interval(float(mean), float(mean - half), float(mean + half))


def over_seeds(values: Float[np.ndarray, " seeds"]) -> Interval:
    r"""What seeds give on average, with Student's 95 % interval $\bar v \pm t_{n-1} s / \sqrt n$.

    Args:
        values: one a seed, of at least two seeds.

    Raises:
        ValueError: fewer than two seeds.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"{n} seeds: an interval needs at least two")
    mean, half = values.mean(), stats.t.ppf(0.975, n - 1) * stats.sem(values)
    return Interval(float(mean), float(mean - half), float(mean + half))
