"""GeoMLE: maximum likelihood at several neighbourhood sizes, extrapolated to radius zero."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxinterp.geometry.dimension.estimate import DimensionEstimate
from jaxinterp.geometry.dimension.levina_bickel import levina_bickel
from jaxinterp.geometry.neighbors import k_nearest
from jaxinterp.geometry.points import of_points


@of_points
@partial(jax.jit, static_argnames=("smallest", "largest", "degree", "samples"))
def extrapolated_likelihood(
    points: Float[Array, "n d"],
    key: Array,
    *,
    smallest: int = 10,
    largest: int = 40,
    degree: int = 1,
    samples: int = 10,
) -> DimensionEstimate:
    r"""Geometry-aware maximum likelihood (GeoMLE): Levina-Bickel at k -> 0.

    Estimand: the limit of the likelihood estimate `d_k`, k = smallest..largest, as the mean radius
    `r_k` goes to zero: the intercept of a polynomial in `r_k` fitted to `d_k`. Curvature and uneven
    density are of higher order in the radius and drop out. Clouds are random halves of the points
    (repeated rows, as in a bootstrap, would be neighbours at distance zero).

    Bias: that of n / 2 points; noisier than one estimate. Error: spread over halves, which is that
        of
    a full sample. Cost: `samples` kNN of n / 2 points.

    Args:
        points: (n, d) rows, n > 2 (largest + 1).
        key: for the halves.
        smallest: first k.
        largest: last k.
        degree: of the polynomial, 1 or 2.
        samples: halves.

    Returns:
        `DimensionEstimate`; `per_point` is nan. No point of a half without a duplicate: value 0
        with infinite error. Equal distances: value and error infinite.

    Raises:
        ValueError: with fewer than 2 samples, a negative degree, or a range of k that is too short
            for the degree.

    Reference: Gomtsyan, Mokrov, Panov, Yanovich, Geometry-aware maximum likelihood estimation of
        intrinsic dimension, ACML (2019), section 3.
    """
    if samples < 2:
        raise ValueError(f"samples is {samples}: a spread over halves needs at least 2")
    if degree < 0:
        raise ValueError(f"degree is {degree}: fit a polynomial of degree 1 or 2")
    if largest - smallest < degree + 1:
        raise ValueError(f"a fit of degree {degree} needs more k than {smallest}..{largest}")
    half = points.shape[0] // 2

    def intercept(one_key: Array) -> tuple[Array, Array]:
        subset = jax.random.permutation(one_key, points)[:half]
        distances = k_nearest(subset, largest).distances
        ranks = range(smallest, largest + 1)
        values = jnp.stack([levina_bickel(distances, k=k).value for k in ranks])
        radii = jnp.mean(distances[:, smallest - 1 :], axis=0)
        known = jnp.all((values > 0) & jnp.isfinite(values))
        radii = radii / jnp.where(known, radii[-1], 1.0)
        design = jnp.stack([radii**power for power in range(degree + 1)], axis=1)
        fitted = jnp.linalg.lstsq(design, jnp.where(known, values, 0.0))[0][0]
        # Nothing to fit where duplicates or ties make every value 0 or some infinite.
        return jnp.where(known, fitted, jnp.mean(values)), known

    found, known = lax.map(intercept, jax.random.split(key, samples))
    stderr = jnp.where(jnp.all(known), jnp.std(found, ddof=1), jnp.inf)
    blank = jnp.full(points.shape[0], jnp.nan, points.dtype)
    return DimensionEstimate(jnp.mean(found), stderr, blank, jnp.asarray(points.shape[0]))
