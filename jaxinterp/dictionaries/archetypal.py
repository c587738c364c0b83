"""Archetypal atoms: near-convex combinations of data points, the same ones for every seed."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries.atoms import Atoms
from jaxinterp.dictionaries.codebook import moving_average

Params = dict[str, Array]
_TINY = 1e-30


def k_means(
    key: Key[Array, ""], points: Float[Array, "n d"], count: int, *, iterations: int = 20
) -> Float[Array, "count d"]:
    """Centres of k-means: each candidate stands for the points nearest to it."""
    lloyd = moving_average(count, decay=0.0)
    state = lloyd.init(key, points)
    state, _ = jax.lax.scan(lambda s, _: (lloyd.step(s, points)[0], None), state, length=iterations)
    return state.params["decoder"] + state.params["decoder_bias"][None]


def sampled(
    key: Key[Array, ""], points: Float[Array, "n d"], count: int
) -> Float[Array, "count d"]:
    """Points drawn without repetition."""
    return points[jax.random.permutation(key, len(points))[:count]]


def archetypal(
    candidates: int,
    *,
    radius: float = 1.0,
    choose: Callable[..., Array] = k_means,
    seed: int = 0,
) -> Atoms:
    r"""Atoms $D = e^m (A C + \Lambda)$, for any variant with an `atoms` argument.

    $C$ are candidates, points of the sample around the first decoder bias, divided by their mean
    length so that a radius means the same whatever the unit of the activations; they stay as they
    are. $A \ge 0$ has rows of sum one, and $\lVert \Lambda_j \rVert \le \delta$: every atom is
    within $\delta$ of the convex hull of the candidates. Dictionaries that share the candidates,
    as those of other keys on the same sample do, hence have less room to differ.

    After a step, A is rectified and its rows divided by their sums, a row without any positive
    entry becomes uniform, and long rows of $\Lambda$ are cut. The gradient that a row of A sees is
    that of its direction, as the division leaves no other.

    Args:
        candidates: points in C.
        radius: $\delta$, in mean lengths of the candidates; 0 for atoms in the hull itself.
        choose: `k_means` or `sampled`.
        seed: of the choice, which does not depend on the key of the dictionary.

    Returns:
        The atoms. Parameters: `decoder` (width, d), which is made from the others, `mixture` A
        (width, candidates), at first one candidate for each atom, in random order; `candidates`
        (candidates, d), `relaxation` (width, d), `log_scale` m ().

    Raises:
        ValueError: no candidates, more than there are points, or a negative radius.

    Reference:
        Fel et al. (2025), "Archetypal SAE", arXiv 2502.12892, section 4; parameters as in
        overcomplete, which starts the i-th atom of every dictionary at the i-th candidate, so that
        dictionaries agree before they have learned anything.
    """
    if candidates < 1:
        raise ValueError(f"{candidates=}: need at least one point")
    if isinstance(radius, float | int) and radius < 0:
        raise ValueError(f"{radius=} must not be negative")

    def init(key: Key[Array, ""], width: int, points: Array) -> Params:
        if candidates > len(points):
            raise ValueError(f"{candidates=} of a sample of {len(points)} points: give more points")
        chosen = choose(jax.random.key(seed), points, candidates)
        length = jnp.linalg.norm(chosen, axis=1).mean()
        order = jnp.resize(jax.random.permutation(key, candidates), (width,))
        params = {
            "mixture": jax.nn.one_hot(order, candidates),
            "candidates": chosen / jnp.where(length > 0, length, 1.0),
            "relaxation": jnp.zeros((width, points.shape[1])),
            "log_scale": jnp.zeros(()),
        }
        return project(params)

    def project(params: Params) -> Params:
        mixture = jax.nn.relu(params["mixture"])
        total = mixture.sum(1, keepdims=True)
        some = total > _TINY
        mixture = jnp.where(some, mixture / jnp.where(some, total, 1.0), 1 / candidates)
        length = jnp.linalg.norm(params["relaxation"], axis=1, keepdims=True)
        too_long = length > radius
        cut = jnp.where(too_long, radius / jnp.where(too_long, length, 1.0), 1.0)
        relaxation = params["relaxation"] * cut
        hull = mixture @ params["candidates"]
        made = jnp.exp(params["log_scale"]) * (hull + relaxation)
        return params | {"mixture": mixture, "relaxation": relaxation, "decoder": made}

    def tangent(params: Params, gradient: Params) -> Params:
        by_atom = gradient["decoder"]
        inner = jnp.exp(params["log_scale"]) * by_atom
        by_mixture = inner @ params["candidates"].T
        along = (by_mixture * params["mixture"]).sum(1, keepdims=True)
        return gradient | {
            "mixture": by_mixture - along,
            "relaxation": inner,
            "log_scale": (by_atom * params["decoder"]).sum(),
            "candidates": jnp.zeros_like(params["candidates"]),
            "decoder": jnp.zeros_like(by_atom),
        }

    return Atoms(init, project, tangent)
