"""Normalisations of activations as one affine object, estimated once and inverted exactly.

    statistics = moments.estimate(batches)
    affine = whitening(statistics, shrinkage=0.01)
    rows = apply(affine, x)              # what a dictionary trains on
    x = invert(affine, reconstruction)   # back in the model's units

Every constructor takes `Moments`, all of them compose, and `dictionaries.fold` moves any of them
into the weights of a trained dictionary. Statistics and affines are float64 on the host; rows are
moved in float32 (or their own wider type).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinterp.activations.moments import Moments


class Affine(NamedTuple):
    r"""$y = (x - c) A$, undone by $x = y A^- + c$.

    $A$ is a number, a number for each coordinate, or a matrix (d, r) of full column rank, and
    $A^- A = I_r$: applying after inverting changes nothing. Where r < d, inverting after applying
    leaves the kept coordinates as they were and puts the dropped ones at their value in $c$, the
    mean for the constructors of this file; `remainder` is what that loses.

    Attributes:
        centre: taken away first, in the units of x.
        matrix: $A$, a scalar, a vector (d) or a matrix (d, r).
        inverse: $A^-$, a scalar, a vector (d) or a matrix (r, d).
    """

    centre: Float[Array | np.ndarray, " d"]
    matrix: Float[Array | np.ndarray, "..."]
    inverse: Float[Array | np.ndarray, "..."]


def apply(affine: Affine, x: Float[Array | np.ndarray, "... d"]) -> Float[Array, "... r"]:
    """Normalises rows; the type stays (bfloat16 is moved in float32)."""
    x = jnp.asarray(x)
    centre, matrix, _ = _in_type_of(x, affine)
    with jax.default_matmul_precision("highest"):
        return times(x - _as_row(centre, x), matrix).astype(x.dtype)


def invert(affine: Affine, y: Float[Array | np.ndarray, "... r"]) -> Float[Array, "... d"]:
    """Brings normalised rows back to the units of the model."""
    y = jnp.asarray(y)
    centre, _, inverse = _in_type_of(y, affine)
    with jax.default_matmul_precision("highest"):
        return (times(y, inverse) + _as_row(centre, y)).astype(y.dtype)


def remainder(affine: Affine, x: Float[Array | np.ndarray, "... d"]) -> Float[Array, "... d"]:
    """What `invert(apply(x))` lacks of x: zero unless the affine drops coordinates."""
    return jnp.asarray(x) - invert(affine, apply(affine, x))


def compose(first: Affine, second: Affine) -> Affine:
    """`first`, then `second`, as one affine; its inverse undoes them in the opposite order."""
    f, s = (jax.tree.map(lambda a: np.asarray(a, np.float64), affine) for affine in (first, second))
    return Affine(
        f.centre + times(s.centre, f.inverse),
        _product(f.matrix, s.matrix),
        _product(s.inverse, f.inverse),
    )


def transformed(statistics: Moments, affine: Affine) -> Moments:
    """Moments of `apply(affine, x)`, so that a second normalisation needs no second pass.

    The mean length of a row is known only where the affine is a scaling without centre, and the
    peaks only where it acts on each coordinate by itself (there, an upper bound).
    """
    matrix = np.asarray(affine.matrix, np.float64)
    mean = times(statistics.mean - np.asarray(affine.centre, np.float64), matrix)
    scatter = statistics.scatter
    if matrix.ndim == 2:
        statistics.covariance()  # refuses moments of single coordinates
        scatter = matrix.T @ scatter @ matrix
    elif scatter.ndim == 2:
        row = np.broadcast_to(matrix, statistics.mean.shape)
        scatter = scatter * row[:, None] * row[None]
    else:
        scatter = scatter * np.square(matrix)
    plain = matrix.ndim == 0 and not np.any(affine.centre)
    length = statistics.length * np.abs(matrix) if plain else np.asarray(np.nan)
    bound = statistics.peak + np.abs(affine.centre)
    peak = bound * np.abs(matrix) if matrix.ndim < 2 else np.full(mean.shape, np.nan)
    return Moments(statistics.count, mean, scatter, np.asarray(length), peak)


def identity(d: int) -> Affine:
    """Changes nothing."""
    return scaling(np.zeros(d), 1.0)


def centring(statistics: Moments) -> Affine:
    """Mean zero.

    The mean is where most dead latents come from: with a mean much longer than the spread, every
    row looks alike to the encoder (see `activations.outliers`).
    """
    return scaling(statistics.mean, 1.0)


def mean_norm(statistics: Moments) -> Affine:
    r"""Mean Euclidean norm $\sqrt d$, not centred: SAELens' and Anthropic's convention.

    Raises:
        ValueError: all rows are zero, or the norms are not known (moments after a transformation).
    """
    d, length = len(statistics.mean), float(statistics.length / statistics.count)
    if np.isnan(length):
        raise ValueError(
            "the mean norm of transformed rows is not known from moments of the raw ones: estimate "
            "moments of the transformed rows, or scale by the mean square"
        )
    return scaling(np.zeros(d), np.sqrt(d) / _positive(length, "mean norm"))


def unit_mean_square(statistics: Moments) -> Affine:
    r"""$\mathrm{E}\lVert y \rVert^2 = 1$, not centred: dictionary_learning's and Gemma Scope's.

    Raises:
        ValueError: all rows are zero.
    """
    size = _positive(statistics.mean_square(), "mean square")
    return scaling(np.zeros_like(statistics.mean), 1 / np.sqrt(size))


def unit_variance(statistics: Moments) -> Affine:
    r"""Mean zero and $\mathrm{E}\lVert y \rVert^2 = d$: one scale for all coordinates.

    Raises:
        ValueError: all rows are equal.
    """
    d, variance = len(statistics.mean), _positive(statistics.variance().sum(), "variance")
    return scaling(statistics.mean, np.sqrt(d / variance))


def standardising(statistics: Moments, *, floor: float = 1e-3) -> Affine:
    """Mean zero and variance one in every coordinate.

    Args:
        statistics: of the raw rows.
        floor: standard deviations below this share of their root mean square are raised to it, so
            that a coordinate that never moves is not blown up.

    Raises:
        ValueError: all rows are equal.
    """
    variance = statistics.variance()
    least = floor * np.sqrt(_positive(variance.mean(), "variance"))
    return scaling(statistics.mean, 1 / np.maximum(np.sqrt(variance), least))


def whitening(statistics: Moments, *, shrinkage: float = 0.0, floor: float = 1e-6) -> Affine:
    r"""Mean zero and covariance the identity, turning the axes as little as possible (ZCA).

    $A = \Sigma_\rho^{-1/2}$ with $\Sigma_\rho = (1-\rho)\Sigma + \rho \frac{\mathrm{tr}\Sigma}{d}
    I$, symmetric; $A^-$ is its exact square root. Directions of little variance are amplified by
    as much as they are small: shrinkage or floor bound that at $\sqrt{1/\mathrm{floor}}$ times the
    amplification of the widest direction.

    Args:
        statistics: with the scatter of all pairs.
        shrinkage: weight $\rho$ of the isotropic target, 0 to 1; 1 only scales.
        floor: eigenvalues below this share of the largest are raised to it. Fewer rows than
            dimensions leave zero eigenvalues, which only the floor keeps invertible.

    Raises:
        ValueError: shrinkage outside 0 .. 1, floor not in 0 .. 1, or all rows equal.

    Reference:
        Kessy, Lewin & Strimmer (2018), "Optimal whitening and decorrelation", section 3 (ZCA);
        Ledoit & Wolf (2004) for the target of the shrinkage.
    """
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"{shrinkage=}: need 0 <= shrinkage <= 1")
    if not 0 < floor <= 1:
        raise ValueError(f"{floor=}: need 0 < floor <= 1, a share of the largest eigenvalue")
    covariance = statistics.covariance()
    isotropic = _positive(np.trace(covariance) / len(covariance), "variance")
    values, vectors = np.linalg.eigh(covariance)
    values = (1 - shrinkage) * values + shrinkage * isotropic
    roots = np.sqrt(np.maximum(values, floor * values.max()))
    return Affine(
        statistics.mean, (vectors / roots[None]) @ vectors.T, (vectors * roots[None]) @ vectors.T
    )


def without_top(statistics: Moments, n: int) -> Affine:
    """Drops the n widest principal components: d - n coordinates remain, turned but not scaled.

    A dictionary trained on the rest and folded back returns the mean along what was dropped; add
    `remainder(affine, x)` to its output where the model is to go on with the full activation.

    Raises:
        ValueError: n outside 0 .. d - 1, or moments of single coordinates.
    """
    d = len(statistics.mean)
    if not 0 <= n < d:
        raise ValueError(f"{n=} components to drop of {d}: need 0 <= n < {d}")
    _, vectors = np.linalg.eigh(statistics.covariance())  # ascending
    kept = vectors[:, : d - n]
    return Affine(statistics.mean, kept, kept.T)


def times(x: Any, matrix: Any) -> Any:
    """`x A` for a scalar, a vector or a matrix A; x of any leading shape, NumPy or JAX."""
    if matrix.ndim == 2:
        # Whitening enlarges what is small beside the rest: by default a TPU would round it away.
        with jax.default_matmul_precision("highest"):
            return x @ matrix
    return x * (_as_row(matrix, x) if matrix.ndim else matrix)


def _product(a: Any, b: Any) -> Any:
    """The product of two maps, as small as both allow."""
    if a.ndim == 1 and b.ndim == 2:
        return a[:, None] * b
    if a.ndim == 2 or b.ndim < 2:
        return times(a, b) if a.ndim else a * b
    return a * b


def _as_row(vector: Any, x: Any) -> Any:
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def _in_type_of(x: Array, affine: Affine) -> Affine:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return Affine(*(jnp.asarray(part, wide) for part in affine))


def scaling(centre: Any, scale: Any) -> Affine:
    """`(x - centre) * scale`, one scale for all coordinates or one for each."""
    scale = np.asarray(scale, np.float64)
    return Affine(np.asarray(centre, np.float64), scale, 1 / scale)


def _positive(value: Any, name: str) -> float:
    if not value > 0:
        raise ValueError(f"the {name} of the activations is {value}: nothing to normalise")
    return float(value)
