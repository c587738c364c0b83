r"""Do single latents follow the log-posterior of a concept, as a good dictionary's should?

Where a representation is linear in the log-posteriors of what it represents, a latent that stands
for one concept is linear in that concept's. Supervised probes estimate them from labelled
activations, best from pairs that differ in the concept only:

    probes = fit_probes(x, present)                          # on labelled activations
    follow(codes, log_odds(probes, x), dictionary.width).score
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.dictionaries.base import Codes, WithRest, latents

_FLAT = 1e-5  # length of a gradient, in standard deviations of x, at which a fit has converged


class Probes(NamedTuple):
    """Logistic regressions, one a concept: log-odds `x @ weight + bias`.

    Attributes:
        weight: direction of each concept, in nats per unit of the activations.
        bias: of each concept.
        converged: whether the fit of each came to rest.
    """

    weight: Float[Array, "d concepts"]
    bias: Float[Array, " concepts"]
    converged: Bool[Array, " concepts"]


class Following(NamedTuple):
    """How closely latents follow concepts.

    Attributes:
        correlation: Pearson's, of every latent with every concept; 0 for one that never changes,
            NaN where codes or logits are.
        latent: the latent of largest absolute correlation, for each concept.
        score: its absolute correlation, mean over the concepts; 1 is the best.
    """

    correlation: Float[Array, "width concepts"]
    latent: Int[Array, " concepts"]
    score: Float[Array, ""]


def fit_probes(
    x: Float[Array, "n d"],
    present: Bool[Array | np.ndarray, "_ concepts"],
    *,
    ridge: float = 1e-3,
    iterations: int = 50,
) -> Probes:
    r"""Logistic regression of each concept on the activations, by Newton's method.

    $\min_{w, b} \mathrm{E} \log(1 + e^{-s (w \cdot x + b)}) + \frac{\lambda \bar v}{2} \lVert w
    \rVert^2$ with $s = \pm 1$ and $\bar v$ the mean variance of a coordinate.

    Args:
        x: activations.
        present: which concepts each has.
        ridge: $\lambda$; it keeps the weights of concepts that are linearly separable finite.
        iterations: Newton steps at most, each as long as lowers the loss.

    Raises:
        ValueError: no rows or concepts, other numbers of rows, a concept that all rows or none
            have, constant activations, or a ridge that is not positive.

    Reference:
        "I predict therefore I am", arXiv 2503.08980 (supervised probes on counterfactual pairs),
        of which a summary was read.
    """
    labels = _checked(x, present)
    if not ridge > 0:
        raise ValueError(f"{ridge=}: separable concepts need one above 0")
    rows = jnp.asarray(x, jnp.float32)
    centre = rows.mean(0)
    rows = rows - centre[None]
    scale = jnp.sqrt(jnp.square(rows).mean())
    if not scale > 0:
        raise ValueError(f"{len(x)} equal activations: they tell nothing of any concept")
    weight, bias, converged = _fit(
        rows / scale, jnp.asarray(labels.T, jnp.float32), ridge, iterations
    )
    weight = weight.T / scale
    return Probes(weight, bias - centre @ weight, converged)


def log_odds(probes: Probes, x: Float[Array, "n d"]) -> Float[Array, "n concepts"]:
    r"""Estimates of $\log p(c | x) - \log p(\neg c | x)$, in nats."""
    return jnp.matmul(x, probes.weight, precision="highest") + probes.bias[None]


def follow(
    codes: Codes | WithRest | Float[Array, "n width"],
    logits: Float[Array, "n concepts"],
    width: int,
) -> Following:
    r"""Correlates latents with log-posteriors.

    $\mathrm{score} = \mathrm{E}_k \max_j |\mathrm{corr}(z_j, \ell_k)|$.

    Args:
        codes: of the rows, in either form.
        logits: of the same rows: `log_odds`, or the truth where it is known.
        width: number of latents.

    Raises:
        ValueError: fewer than two rows.

    Reference:
        As `fit_probes`; no dictionary that they measured reached 0.8.
    """
    n = len(logits)
    if n < 2:
        raise ValueError(f"{n} rows: a correlation needs at least two")
    codes = latents(codes)
    target = (logits - logits.mean(0, keepdims=True)).astype(jnp.float32)
    if isinstance(codes, Codes):
        value, place = codes.values.astype(jnp.float32), codes.indices

        def total(parts: Array) -> Array:
            return jnp.zeros((width, *parts.shape[2:])).at[place].add(parts)

        on = (value != 0).astype(jnp.float32)
        mean, silent = total(value) / n, n - total(on)
        away = on * (value - mean[place])
        spread = total(jnp.square(away)) + silent * jnp.square(mean)
        there = total(on[:, :, None] * target[:, None])
        product = total(away[:, :, None] * target[:, None])
        product = product - mean[:, None] * (target.sum(0)[None] - there)
    else:
        centred = (codes - codes.mean(0, keepdims=True)).astype(jnp.float32)
        product = jnp.matmul(centred.T, target, precision="highest")
        spread = jnp.square(centred).sum(0)
    size = jnp.sqrt(spread[:, None] * jnp.square(target).sum(0)[None])
    correlation = jnp.where(size == 0, 0.0, product / jnp.where(size == 0, 1.0, size))
    strength = jnp.abs(correlation)
    return Following(correlation, strength.argmax(0), strength.max(0).mean())


@partial(jax.jit, static_argnames="iterations")
def _fit(
    x: Float[Array, "n d"],
    labels: Float[Array, "concepts n"],
    ridge: float | Array,
    iterations: int,
) -> tuple[Array, Array, Array]:
    """(weights, biases, which converged) on centred rows of unit variance, a concept at a time."""
    n, d = x.shape
    design = jnp.concatenate([x, jnp.ones((n, 1))], 1)
    shift = jnp.full(d + 1, ridge).at[d].set(0.0)  # the bias is free
    lengths = 0.5 ** jnp.arange(10)

    def one(label: Array) -> tuple[Array, Array]:
        def loss(w: Array) -> Array:
            h = jnp.matmul(design, w, precision="highest")
            return (jax.nn.softplus(h) - label * h).mean() + 0.5 * (shift * w * w).sum()

        def slope(w: Array) -> tuple[Array, Array]:
            p = jax.nn.sigmoid(jnp.matmul(design, w, precision="highest"))
            return jnp.matmul(p - label, design, precision="highest") / n + shift * w, p

        def unfinished(state: tuple[Array, Array]) -> Array:
            w, count = state
            return (jnp.linalg.norm(slope(w)[0]) > _FLAT) & (count < iterations)

        def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
            w, count = state
            gradient, p = slope(w)
            curved = jnp.matmul(design.T * (p * (1 - p))[None], design, precision="highest") / n
            # A tiny floor: far from the solution all probabilities may be 0 or 1.
            curved = curved + jnp.diag(shift + 1e-7)
            along = jax.scipy.linalg.solve(curved, gradient, assume_a="pos")
            trials = w[None] - lengths[:, None] * along[None]
            return trials[jnp.argmin(jax.lax.map(loss, trials))], count + 1

        w, _ = jax.lax.while_loop(unfinished, step, (jnp.zeros(d + 1), jnp.zeros((), jnp.int32)))
        return w, jnp.linalg.norm(slope(w)[0]) <= 10 * _FLAT

    weights, converged = jax.lax.map(one, labels)
    return weights[:, :d], weights[:, d], converged


def _checked(x: Array, present: Array | np.ndarray) -> Bool[np.ndarray, "n concepts"]:
    labels = np.asarray(present, bool)
    if not labels.size:
        raise ValueError(f"concepts of shape {labels.shape}: a probe needs rows and concepts")
    if len(labels) != len(x):
        raise ValueError(f"{len(labels)} labels for {len(x)} activations")
    for concept in np.flatnonzero((labels == labels[:1]).all(0)):
        raise ValueError(
            f"concept {concept} is present on {labels[:, concept].sum()} of {len(x)} rows: a probe "
            "of a single class would be right without reading anything"
        )
    return labels
