r"""InfoMEC: does each latent tell of one source, each source live in one latent, and all of it?

Three numbers for discrete sources and discrete latents (`latent_quantised`, `vector_quantised`,
`binary`), all 1 for a permuted copy of the sources and near 0 for a code that mixes them:

modularity (each latent one source), compactness (each source one latent), explicitness (sources are
linearly decodable). Counts of finitely many rows bias the mutual information upwards, so that even
a perfect code scores a little below 1 in the first two.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int
from scipy.optimize import minimize
from scipy.special import logsumexp


class InfoMEC(NamedTuple):
    """The three numbers.

    Attributes:
        modularity: InfoM.
        compactness: InfoC.
        explicitness: InfoE.
        information: NMI of each source and each active latent.
        active: latents that take more than one value; the others are left out.
    """

    modularity: float
    compactness: float
    explicitness: float
    information: Float[np.ndarray, "sources active"]
    active: Int[np.ndarray, " active"]


def info_mec(
    sources: Int[Array | np.ndarray, "n sources"], codes: Int[Array | np.ndarray, "_ latents"]
) -> InfoMEC:
    r"""Modularity, explicitness and compactness of a discrete code.

    With $N_{ij} = I(s_i; z_j) / H(s_i)$ over S sources and A active latents,

    $M = (\mathrm{E}_j \frac{\max_i N_{ij}}{\sum_i N_{ij}} - \frac1S) / (1 - \frac1S)$,
    $C = (\mathrm{E}_i \frac{\max_j N_{ij}}{\sum_j N_{ij}} - \frac1A) / (1 - \frac1A)$,
    $E = \mathrm{E}_i (H(s_i) - H(s_i | z)) / H(s_i)$,

    the entropies of the last those of logistic regressions on one-hot latents that weigh all values
    of a source alike, without and with the latents, on these rows and without a penalty.

    The definition for continuous latents (a nearest-neighbour estimate of the information) is not
    here: give them as bins.

    Args:
        sources: what is to be found, one integer a source.
        codes: one integer a latent (`vector_quantised`: the index within each book).

    Raises:
        ValueError: other numbers of rows, fewer than two sources or active latents, or a source
            that takes one value.

    Reference:
        Hsu et al. (2023), "Disentanglement via latent quantization", arXiv 2305.18378, and its
        code.
    """
    s, z = np.asarray(sources), np.asarray(codes)
    if len(s) != len(z):
        raise ValueError(f"{len(s)} rows of sources and {len(z)} of codes")
    active = np.flatnonzero((z != z[:1]).any(0))
    if s.shape[1] < 2 or len(active) < 2:
        raise ValueError(
            f"{s.shape[1]} sources and {len(active)} active latents: with fewer than 2 of either, "
            "being the only one says nothing"
        )
    for i in np.flatnonzero((s == s[:1]).all(0)):
        raise ValueError(f"source {i} has the value {s[0, i]} in all rows: nothing to find")
    z = z[:, active]
    table = np.array([[_information(a, b) for b in z.T] for a in s.T])
    gaps = [_balanced_fit(a, z) for a in s.T]
    return InfoMEC(
        _concentration(table.T), _concentration(table), float(np.mean(gaps)), table, active
    )


def _concentration(table: Float[np.ndarray, "rows columns"]) -> float:
    """How much of each row's sum is its largest entry: 1 if all, 0 if no more than its share."""
    total = table.sum(1)
    share = np.where(total > 0, table.max(1) / np.where(total > 0, total, 1.0), 1 / table.shape[1])
    return float((share.mean() - 1 / table.shape[1]) / (1 - 1 / table.shape[1]))


def _information(source: np.ndarray, latent: np.ndarray) -> float:
    """I(s; z) / H(s), from counts."""
    rows, columns = (np.unique(a, return_inverse=True)[1] for a in (source, latent))
    joint = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(joint, (rows, columns), 1 / len(rows))

    def entropy(p: np.ndarray) -> float:
        return float(-(p * np.log(np.where(p > 0, p, 1.0))).sum())

    of_source = entropy(joint.sum(1))
    return (of_source + entropy(joint.sum(0)) - entropy(joint)) / of_source


def _balanced_fit(source: np.ndarray, latents: np.ndarray) -> float:
    """Share of a source's balanced entropy that a multinomial regression on latents removes."""
    columns = [a[:, None] == np.unique(a)[None] for a in latents.T]
    x = np.concatenate([*columns, np.ones((len(source), 1), bool)], 1).astype(np.float64)
    values, y, counts = np.unique(source, return_inverse=True, return_counts=True)
    hot = np.eye(len(values))[y]
    weight = (1 / (len(values) * counts))[y]  # sums to one, each value alike

    def cross_entropy(flat: np.ndarray) -> tuple[float, np.ndarray]:
        logits = x @ flat.reshape(x.shape[1], -1)
        log_p = logits - logsumexp(logits, axis=1, keepdims=True)
        gradient = x.T @ ((np.exp(log_p) - hot) * weight[:, None])
        return float(-(weight * log_p[np.arange(len(y)), y]).sum()), gradient.ravel()

    begin = np.zeros(x.shape[1] * len(values))
    # Without a penalty separable sources have no optimum: stop where no digit is gained.
    found = minimize(cross_entropy, begin, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    without = np.log(len(values))
    return float((without - found.fun) / without)
