"""One estimator over many clouds: layers, checkpoints, heads, seeds, subsets of the points."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxinterp.geometry.dimension.estimate import DimensionEstimate, ScaleScan
from jaxinterp.geometry.dimension.two_nn import two_nn
from jaxinterp.geometry.neighborhoods import map_neighborhoods
from jaxinterp.geometry.neighbors import k_nearest
from jaxinterp.geometry.points import check_finite, of_finite_points, of_points

T = TypeVar("T")


def profile(
    estimate: Callable[[Array], T], clouds: Float[Array, "*stack n d"], *, at_once: int = 1
) -> T:
    """An estimate of every cloud of a stack, in one compilation.

        profile(lambda points: two_nn(k_nearest(points, 2).distances), activations)

    Clouds go one after another, since each fills a CPU by itself. Small ones do not fill an
    accelerator, which wants many `at_once`.

    Args:
        estimate: pure function from (n, d) points to a pytree.
        clouds: (..., n, d), for example (layer, token, width).
        at_once: clouds that are computed together, at that many times the memory.

    Returns:
        The estimates with the leading axes of `clouds`.

    Raises:
        ValueError: `at_once` below 1, or NaN or infinity in the clouds.
    """
    if at_once < 1:
        raise ValueError(f"at_once is {at_once}: compute at least 1 cloud at a time")
    check_finite(clouds)
    return _profile(estimate, clouds, at_once)


@partial(jax.jit, static_argnums=(0, 2))
def _profile(estimate: Callable[[Array], T], clouds: Array, at_once: int) -> T:
    stack, flat = clouds.shape[:-2], clouds.reshape(-1, *clouds.shape[-2:])
    results = lax.map(estimate, flat, batch_size=None if at_once == 1 else at_once)
    return jax.tree.map(lambda leaf: leaf.reshape(*stack, *leaf.shape[1:]), results)


def _two_nn_of_points(points: Array) -> DimensionEstimate:
    neighbors = k_nearest(points, min(17, points.shape[0] - 1))
    return two_nn(neighbors.distances, indices=neighbors.indices)


def _two_nn_by_line(points: Array) -> DimensionEstimate:
    return two_nn(k_nearest(points, 2).distances, method="line")


@of_points
@partial(jax.jit, static_argnames=("estimate",))
def local_estimates(
    points: Float[Array, "n d"],
    indices: Int[Array, "n k"],
    *,
    estimate: Callable[[Array], Any] = _two_nn_by_line,
) -> Any:
    """An estimate inside the neighbourhood of every point: a field of local dimensions.

    By default TwoNN's line fit among the k neighbours alone, whose mean over tokens is followed
    over training.
    Drop repeated rows before, as a neighbourhood of copies says nothing:

        near = k_nearest(points, 128, valid=first_occurrences(points)).indices
        field = local_estimates(points, near).value

    Bias: that of the estimator at k points, so low in high dimensions. Cost: n estimates of k
    points, for TwoNN 2 n k^2 d flops.

    Args:
        points: (n, d) rows.
        indices: (n, k) neighbours, none of them missing; k about 128 for TwoNN.
        estimate: pure function from (k, d) neighbours, seen from the point, to a pytree.

    Returns:
        The estimates with a leading axis of length n.

    Reference: Ruppik et al., "Less is more: local intrinsic dimensions of contextual language
        models" (2025).
    """
    return map_neighborhoods(estimate, points, indices)


def neighbor_scan(
    estimate: Callable[..., DimensionEstimate],
    distances: Float[Array, "n k"],
    *,
    indices: Int[Array, "n k"] | None = None,
    sizes: Sequence[int] | None = None,
) -> ScaleScan:
    """A dimension against the number of neighbours that it reads.

        neighbor_scan(levina_bickel, near.distances, indices=near.indices)

    Read as `gride_ladder`: a plateau is a dimension, a fall towards small radii is noise, a steady
    fall with the radius curvature or the bias of high dimensions. Each size is a program of its
    own.

    Args:
        estimate: `(distances, *, k, indices) -> DimensionEstimate`, as all that read k distances.
        distances: (n, k) from `k_nearest`.
        indices: the neighbours, for errors that allow for shared neighbourhoods.
        sizes: numbers of neighbours, ascending; None for 4, 8, 16, ... below k.

    Returns:
        `ScaleScan` over the sizes; `radii` are means of `r_k`.

    Raises:
        ValueError: no sizes, or what `estimate` refuses.
    """
    most = distances.shape[1]
    sizes = [2**i for i in range(2, (most - 1).bit_length())] if sizes is None else list(sizes)
    if not sizes:
        raise ValueError(f"no numbers of neighbours to scan, out of {most}: give `sizes`")
    found = [estimate(distances, k=k, indices=indices) for k in sizes]
    reach = distances[:, jnp.asarray(sizes) - 1]
    finite = jnp.isfinite(reach)
    radii = jnp.where(finite, reach, 0.0).sum(0) / jnp.maximum(finite.sum(0), 1)
    values, stderrs = (jnp.stack([one[i] for one in found]) for i in range(2))
    return ScaleScan(jnp.asarray(sizes, distances.dtype), radii, values, stderrs)


@of_finite_points
@partial(jax.jit, static_argnames=("samples", "estimate"))
def half_sample_error(
    points: Float[Array, "n d"],
    key: Array,
    *,
    samples: int = 20,
    estimate: Callable[[Array], Array],
) -> Float[Array, "..."]:
    """Standard error of any estimate, as its spread over random halves of the points.

    With `b = n / 2` of n rows drawn without replacement, `var(estimate) = b / (n - b)` times the
    variance over draws: the factor is one. Rows are not drawn twice, because repeated rows are
    neighbours at distance zero.

    Args:
        points: (n, d) rows.
        key: for the draws.
        samples: number of halves; the error's own relative error is about `1 / sqrt(2 samples)`.
        estimate: pure function from (n / 2, d) points to an array; it recomputes its neighbours.

    Returns:
        The standard error, of the shape of one estimate.

    Raises:
        ValueError: with fewer than 2 samples.

    Reference: Politis, Romano, Wolf, Subsampling (1999), chapter 2; Shao, Wu, Annals of Statistics
        17 (1989).
    """
    if samples < 2:
        raise ValueError(f"samples is {samples}: a spread over halves needs at least 2")
    half = points.shape[0] // 2

    def of_half(one_key: Array) -> Array:
        return estimate(jax.random.permutation(one_key, points)[:half])

    return jnp.std(lax.map(of_half, jax.random.split(key, samples)), axis=0, ddof=1)


@of_finite_points
@partial(jax.jit, static_argnames=("estimate", "smallest"))
def decimation(
    points: Float[Array, "n d"],
    key: Array,
    *,
    estimate: Callable[[Array], DimensionEstimate] = _two_nn_of_points,
    smallest: int = 100,
) -> ScaleScan:
    """A dimension against the number of points: n, n/2, n/4, ... down to `smallest`.

    At level l the points are split at random into 2^l disjoint subsets, whose estimates are
    averaged. A rise towards small subsets that flattens shows the scale of noise; a steady fall is
    the finite-sample bias of a high dimension. Cost: twice that of the full estimate.

    Args:
        points: (n, d) rows.
        key: for the split.
        estimate: from points to `DimensionEstimate`; TwoNN by default.
        smallest: smallest subset.

    Returns:
        `ScaleScan` whose scales are subset sizes; the error of the full set is the estimator's own,
        of the others the spread over subsets over `sqrt(2^l)`. `radii` are nan: sizes are the
        scale.

    Raises:
        ValueError: with fewer than `smallest` points, or smallest below 1.

    Reference: Facco, d'Errico, Rodriguez, Laio, Scientific Reports 7 (2017), section 2.
    """
    number = points.shape[0]
    if smallest < 1:
        raise ValueError(f"smallest is {smallest}: a subset needs at least 1 point")
    if number < smallest:
        raise ValueError(f"got {number} points, fewer than smallest={smallest}")
    levels = (number // smallest).bit_length()
    points = jax.random.permutation(key, points)
    sizes, values, stderrs = [], [], []
    for level in range(levels):
        size = number >> level
        subsets = points[: size << level].reshape(1 << level, size, -1)
        found = lax.map(estimate, subsets)
        spread = jnp.std(found.value, ddof=1) if level else 0.0
        sizes.append(float(size))
        values.append(jnp.mean(found.value))
        # Two or four subsets say little about their own spread: never report less than they claim.
        claimed = jnp.sqrt(jnp.mean(found.stderr**2))
        stderrs.append(jnp.maximum(spread, claimed) / 2 ** (level / 2))
    scales = jnp.asarray(sizes, values[0].dtype)
    return ScaleScan(scales, jnp.full_like(scales, jnp.nan), jnp.stack(values), jnp.stack(stderrs))
