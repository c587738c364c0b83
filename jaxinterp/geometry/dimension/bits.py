"""Binary intrinsic dimension (BID): the dimension of bits from their Hamming distances."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Bool, Float, Int, Integer

_STEPS = 100


class BitsDimension(NamedTuple):
    """The line `d(r) = value + slope r` of a fit to the distances of bits, and how it fits."""

    value: Float[Array, ""]
    stderr: Float[Array, ""]
    slope: Float[Array, ""]
    divergence: Float[Array, ""]  # Kullback-Leibler, of the histogram from the model, in nats
    largest: Int[Array, ""]  # distance up to which the histogram was fitted
    converged: Bool[Array, ""]


@partial(jax.jit, static_argnames=("block",))
def hamming_histograms(
    bits: Integer[Array, "n d"] | Bool[Array, "n d"], *, block: int = 256
) -> Int[Array, "n d+1"]:
    """For every point the number of others at each Hamming distance 0..d.

    Cost: one product of n^2 d, exact in float32 for d below 2^24, and n^2 counts.

    Args:
        bits: (n, d) of two values; the larger one counts as 1.
        block: rows per step.

    Returns:
        (n, d + 1) counts, each row summing to n - 1.
    """
    number, width = bits.shape
    signs = jnp.where(bits == jnp.max(bits), 1.0, -1.0)

    def count(row: Array) -> Array:
        distances = ((width - jnp.dot(signs, row)) / 2).astype(jnp.int32)
        return jnp.zeros(width + 1, jnp.int32).at[distances].add(1)

    return lax.map(count, signs, batch_size=min(block, number)).at[:, 0].add(-1)


def bits_dimension(histograms: Int[Array, "n r"], *, share: float = 0.2) -> BitsDimension:
    r"""Binary intrinsic dimension: how many independent fair bits have such distances.

    Estimand: `d(0)` of the scale-dependent dimension `d(r) = d(0) + d1 r`, for which the distances
    of pairs follow `P(r) ~ 2^-d(r) C(d(r), r)`, normalised over the observed distances up to the
    quantile `share`. For D independent fair bits d(0) = D and d1 = 0. The fit minimises the
    Kullback-Leibler divergence by Fisher scoring, where peers anneal random moves.

    Bias: small for independent bits. Needs distances from near zero on to mean d(0): the further
    the smallest distance from zero, the longer the extrapolation, which the error shows. Error:
    that of a mean over pairs, to first order, at least what independent pairs would give.
    Cost: a few hundred passes over r, after the histograms.

    Args:
        histograms: (n, r) counts of others at each Hamming distance, from `hamming_histograms`.
        share: quantile of the distances up to which the histogram is fitted.

    Returns:
        `BitsDimension`. Fewer than 3 distances to fit: value 0 with infinite error.

    Raises:
        ValueError: if share is not in (0, 1].

    Reference: Acevedo, Rodriguez, Laio, Unsupervised detection of semantic correlations in big
        data, Communications Physics 8 (2025), equations 3-6.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is a quantile in (0, 1], got {share}")
    return _bits_dimension(histograms, share)


@partial(jax.jit, static_argnums=(1,))
def _bits_dimension(histograms: Array, share: float) -> BitsDimension:
    counts = jnp.sum(histograms.astype(jnp.float32), axis=0)
    distance = jnp.arange(len(counts), dtype=counts.dtype)
    mean = jnp.sum(counts * distance) / jnp.sum(counts)
    below = jnp.cumsum(counts) <= share * jnp.sum(counts) * (1 + 1e-6)
    present = counts > 0
    smallest = jnp.argmax(present)
    largest = jnp.maximum(jnp.max(jnp.where(below & present, distance, 0.0)), smallest)
    window = present & (distance <= largest)
    observed = jnp.where(window, counts, 0.0) / jnp.sum(jnp.where(window, counts, 0.0))
    # The line is held at the window's mean distance: value and slope there hardly depend on each
    # other.
    pivot = jnp.sum(observed * distance)
    offset = distance - pivot

    def model(line: Array) -> tuple[Array, Array]:
        """Log-probabilities, and the derivative of each unnormalised one by its d(r)."""
        dimension = jnp.where(window, jnp.maximum(line[0] + line[1] * offset, distance), 1.0)
        rest = jnp.where(window, dimension - distance, 1.0)
        log = gammaln(dimension + 1) - gammaln(rest + 1) - gammaln(distance + 1)
        log = jnp.where(window, log - dimension * jnp.log(2.0), -jnp.inf)
        slope = digamma(dimension + 1) - digamma(rest + 1) - jnp.log(2.0)
        return log - jax.nn.logsumexp(log), jnp.where(window, slope, 0.0)

    def divergence(line: Array) -> Array:
        log = jnp.where(window, model(line)[0], 0.0)
        ratio = jnp.log(jnp.where(window, observed, 1.0)) - log
        return jnp.sum(jnp.where(window, observed * ratio, 0.0))

    def solve(line: Array, target: Array) -> Array:
        """Fisher scoring: the change of the line that moves the model's mean scores to `target`'s.

        Two columns orthogonalised by hand, weighted by the model: their product matrix would
        square the condition number.
        """
        log, slope = model(line)
        weight = jnp.exp(log)
        first, second = slope, slope * offset
        first = first - jnp.sum(weight * first)
        second = second - jnp.sum(weight * second)
        square = jnp.maximum(jnp.sum(weight * first**2), 1e-30)
        overlap = jnp.sum(weight * first * second) / square
        second = second - overlap * first
        difference = target - weight * jnp.sum(target)
        other = jnp.maximum(jnp.sum(weight * second**2), 1e-30)
        turn = jnp.sum(difference * second) / other
        return jnp.stack([jnp.sum(difference * first) / square - overlap * turn, turn])

    def step(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        line, _ = state
        change = solve(line, observed)
        # At most half the way to d(r) = r, where the binomial ends.
        room = jnp.maximum(line[0] + line[1] * offset - distance, 1e-3) + 1.0
        moved = jnp.abs(change[0] + change[1] * offset)
        length = jnp.min(jnp.where(window, 0.5 * room / jnp.maximum(moved, 1e-30), jnp.inf))
        change = jnp.minimum(length, 1.0) * change
        return line + change, jnp.abs(change[0]) / line[0]

    # The lines on which d at the mean distance is twice that distance, as for independent bits.
    starts = len(counts) * jnp.arange(1, 20) / 20
    slopes = 2 - starts / jnp.maximum(mean, 1e-6)
    lines = jnp.stack([starts + slopes * pivot, slopes], axis=1)
    best = lines[jnp.nanargmin(jax.vmap(divergence)(lines))]
    line, change = lax.fori_loop(0, _STEPS, step, (best, jnp.full((), jnp.inf)))

    value = line[0] - line[1] * pivot
    # Influence of a pair at each distance; the distances outside the window have none.
    share_inside = jnp.sum(jnp.where(window, counts, 0.0)) / jnp.sum(counts)
    pairs = jax.vmap(partial(solve, line))(jnp.eye(len(counts)) - observed[None, :])
    influence = jnp.where(window, (pairs[:, 0] - pairs[:, 1] * pivot) / share_inside, 0.0)
    # A pair belongs to two points. Their scatter counts twice what pairs vary on their own: taken
    # off once, it leaves the variance of a mean over pairs.
    number = len(histograms)
    points = 2 * jnp.matmul(histograms.astype(counts.dtype), influence, precision="highest")
    points = points * number / jnp.sum(counts)
    scatter = jnp.sum((points - jnp.mean(points)) ** 2) / number**2
    alone = 2 * jnp.sum(counts * influence**2) / jnp.sum(counts) ** 2
    stderr = jnp.sqrt(jnp.maximum(scatter - alone, alone))
    enough = jnp.sum(window) > 2
    return BitsDimension(
        jnp.where(enough, value, 0.0),
        jnp.where(enough, stderr, jnp.inf),
        jnp.where(enough, line[1], 0.0),
        divergence(line),
        largest.astype(jnp.int32),
        enough & (change < 1e-3),
    )
