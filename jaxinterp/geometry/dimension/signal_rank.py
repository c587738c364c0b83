"""Linear rank of a signal in noise: thresholds of random-matrix theory, evidence, permutation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.dimension.spectral_rules import covariance_spectrum
from jaxinterp.geometry.points import of_points

# Upper quantiles of the real Tracy-Widom law by level: P(TW > s) = level (Bejan, 2005, table 1).
_TRACY_WIDOM = {0.1: 0.4501, 0.05: 0.9793, 0.01: 2.0234, 0.005: 2.4223, 0.001: 3.2722}


@partial(jax.jit, static_argnames=("samples", "variables"))
def marchenko_pastur_rank(
    eigenvalues: Float[Array, " r"], *, samples: int, variables: int
) -> Int[Array, ""]:
    """Number of eigenvalues above the edge of pure noise, `s^2 (1 + sqrt(p / n))^2`.

    s^2 matches the median of the non-zero eigenvalues to that of the Marchenko-Pastur law, so that
    the noise must fill at least half of the spectrum. n is `samples - 1`.

    Args:
        eigenvalues: descending, from `covariance_spectrum`.
        samples: rows of the data.
        variables: columns of the data.

    Returns:
        The rank.

    Reference: Marchenko, Pastur (1967); median matching as in Gavish, Donoho, section III.E.
    """
    noise = _noise_variance(eigenvalues, samples - 1, variables)
    return jnp.sum(eigenvalues > noise * (1 + (variables / (samples - 1)) ** 0.5) ** 2)


@partial(jax.jit, static_argnames=("samples", "variables"))
def gavish_donoho_rank(
    eigenvalues: Float[Array, " r"], *, samples: int, variables: int
) -> Int[Array, ""]:
    """Number of singular values above the optimal hard threshold for unknown noise.

    `lambda* ^2 = 2(b + 1) + 8b / (b + 1 + sqrt(b^2 + 14 b + 1))`, `b = min(n, p) / max(n, p)`, in
    units of the noise variance times `max(n, p) / n`; the noise as in `marchenko_pastur_rank`.

    Args:
        eigenvalues: descending, from `covariance_spectrum`.
        samples: rows of the data.
        variables: columns of the data.

    Returns:
        The rank.

    Reference: Gavish, Donoho, The optimal hard threshold for singular values is 4/sqrt(3), IEEE
        TIT 60 (2014), equation 11.
    """
    free = samples - 1
    beta = min(free, variables) / max(free, variables)
    square = 2 * (beta + 1) + 8 * beta / (beta + 1 + (beta**2 + 14 * beta + 1) ** 0.5)
    noise = _noise_variance(eigenvalues, free, variables)
    return jnp.sum(eigenvalues > square * max(free, variables) / free * noise)


def kritchman_nadler_rank(
    eigenvalues: Float[Array, " r"], *, samples: int, variables: int, level: float = 0.05
) -> Int[Array, ""]:
    r"""Number of leading eigenvalues that a sequence of Tracy-Widom tests finds above the noise.

    With n = samples - 1 and k - 1 signals under the null, eigenvalue k passes if
    `n lambda_k > s^2 (mu + t(level) xi)`, `a = sqrt(n - 1/2)`, `b = sqrt(p - k + 1/2)`,
    `mu = (a + b)^2`, `xi = (a + b) (1/a + 1/b)^(1/3)`; s^2 is the mean of the eigenvalues behind
    k - 1, plus what the noise adds to those before: the fixed point of
    `s^2 = (sum_{j>=k} l_j + sum_{j<k} (l_j - rho_j)) / (p - k + 1)`, rho_j the debiased signals,
    `rho_j = (t + sqrt(t^2 - 4 l_j s^2)) / 2`, `t = l_j + s^2 - s^2 (p - k + 1) / n`. The first
    test that fails ends the sequence.

    Bias: signals below `s^2 sqrt(p / n)` cannot be seen; on pure noise the rank is above 0 in
    about the share `level` of samples. Noise that is not white counts as signal. Cost: O(r^2).

    Args:
        eigenvalues: descending, from `covariance_spectrum`.
        samples: rows of the data.
        variables: columns of the data.
        level: of each test: 0.1, 0.05, 0.01, 0.005 or 0.001.

    Returns:
        The rank, at most min(n, p) - 1.

    Raises:
        ValueError: on another level.

    Reference: Kritchman, Nadler, Determining the number of components in a factor model from
        limited noisy data, Chemometrics and Intelligent Laboratory Systems 94 (2008), section 3.
    """
    if level not in _TRACY_WIDOM:
        raise ValueError(f"level must be one of {sorted(_TRACY_WIDOM)}, got {level}")
    return _kritchman_nadler(eigenvalues, samples - 1, variables, _TRACY_WIDOM[level])


@partial(jax.jit, static_argnums=(1, 2, 3))
def _kritchman_nadler(eigenvalues: Array, free: int, variables: int, quantile: float) -> Array:
    position = jnp.arange(eigenvalues.shape[0])

    def passes(signals: Array) -> Array:
        before = position < signals
        rest = jnp.sum(jnp.where(before, 0.0, eigenvalues))
        left = 1.0 * variables - signals

        def update(_: Array, noise: Array) -> Array:
            shifted = eigenvalues + noise - noise * left / free
            root = jnp.sqrt(jnp.maximum(shifted**2 - 4 * eigenvalues * noise, 0.0))
            excess = eigenvalues - (shifted + root) / 2
            return (rest + jnp.sum(jnp.where(before, excess, 0.0))) / left

        noise = lax.fori_loop(0, 30, update, rest / left)
        a, b = (free - 0.5) ** 0.5, jnp.sqrt(left - 0.5)
        edge = (a + b) ** 2 + quantile * (a + b) * (1 / a + 1 / b) ** (1 / 3)
        return free * eigenvalues[signals] > noise * edge

    passed = lax.map(passes, jnp.arange(max(min(free, variables) - 1, 1)))
    return jnp.sum(jnp.cumprod(passed.astype(jnp.int32)))


def _noise_variance(eigenvalues: Array, free: int, variables: int) -> Array:
    positive = eigenvalues > 0
    median = jnp.nanmedian(jnp.where(positive, eigenvalues, jnp.nan))
    beta = min(free, variables) / max(free, variables)
    return median / (marchenko_pastur_median(beta) * max(free, variables) / free)


def marchenko_pastur_median(beta: float) -> float:
    """Median of the Marchenko-Pastur law of unit variance and ratio `beta <= 1`."""
    low, high = (1 - beta**0.5) ** 2, (1 + beta**0.5) ** 2
    # x = low + (high - low) sin^2(t): the density's square roots become smooth.
    t = (np.arange(20000) + 0.5) / 20000 * np.pi / 2
    x = low + (high - low) * np.sin(t) ** 2
    mass = np.cumsum((np.sin(t) * np.cos(t)) ** 2 / x)
    return float(np.interp(0.5, mass / mass[-1], x))


@partial(jax.jit, static_argnames=("samples",))
def minka_rank(eigenvalues: Float[Array, " d"], *, samples: int) -> Int[Array, ""]:
    """Rank of largest Laplace evidence of probabilistic principal components.

    Compares ranks 1 to r - 1, r the number of positive eigenvalues; overestimates on noise-free
    data, whose smallest eigenvalues it takes for signal.

    Args:
        eigenvalues: descending, all d of them (n > d), from `covariance_spectrum`.
        samples: rows of the data.

    Returns:
        The rank. Of a single eigenvalue: 1, or 0 if it is zero.

    Reference: Minka, Automatic choice of dimensionality for PCA, NeurIPS (2000), equation 30.
    """
    number = eigenvalues.shape[0]
    if number == 1:
        return jnp.sum(eigenvalues > 0)
    tiny = jnp.finfo(eigenvalues.dtype).tiny
    values = eigenvalues / jnp.maximum(eigenvalues[0], tiny)
    position = jnp.arange(number)
    log_values = jnp.log(jnp.maximum(values, tiny))

    def evidence(rank: Array) -> Array:
        inside = position < rank
        noise = jnp.sum(jnp.where(inside, 0.0, values)) / (number - rank)
        half = (number - position) / 2
        prior = jnp.sum(jnp.where(inside, gammaln(half) - half * jnp.log(jnp.pi), 0.0))
        free = number * rank - rank * (rank + 1) / 2
        modelled = jnp.where(inside, values, noise)
        pair = inside[:, None] & (position[:, None] < position[None, :])
        gap = jnp.maximum(values[:, None] - values[None, :], tiny)
        inverse = 1 / jnp.maximum(modelled, tiny)
        spread = jnp.maximum(inverse[None, :] - inverse[:, None], tiny)
        hessian = jnp.where(pair, jnp.log(gap) + jnp.log(spread) + jnp.log(samples), 0.0)
        return (
            prior
            - rank * jnp.log(2.0)
            - samples / 2 * jnp.sum(jnp.where(inside, log_values, 0.0))
            - samples * (number - rank) / 2 * jnp.log(jnp.maximum(noise, tiny))
            + jnp.log(2 * jnp.pi) * (free + rank) / 2
            - jnp.sum(hessian) / 2
            - rank * jnp.log(samples) / 2
        )

    ranks = jnp.arange(1, number)
    allowed = ranks < jnp.maximum(jnp.sum(values > number * jnp.finfo(values.dtype).eps), 2)
    return 1 + jnp.argmax(jnp.where(allowed, lax.map(evidence, ranks), -jnp.inf))


@of_points
@partial(jax.jit, static_argnames=("permutations", "quantile"))
def parallel_analysis(
    points: Float[Array, "n d"], key: Array, *, permutations: int = 100, quantile: float = 0.95
) -> Int[Array, ""]:
    """Number of leading eigenvalues above those of the data with every column permuted (Horn).

    Cost: `permutations` covariance spectra.

    Args:
        points: (n, d) rows.
        key: for the permutations.
        permutations: number of permuted copies.
        quantile: of the permuted eigenvalues of each rank.

    Returns:
        The rank; 0 when nothing correlates.

    Reference: Horn, Psychometrika 30 (1965).
    """

    def permuted(one_key: Array) -> Array:
        return covariance_spectrum(
            jax.random.permutation(one_key, points, axis=0, independent=True)
        )

    null = lax.map(permuted, jax.random.split(key, permutations))
    above = covariance_spectrum(points) > jnp.quantile(null, quantile, axis=0)
    return jnp.sum(jnp.cumprod(above.astype(jnp.int32)))
