r"""Diffusion over bits: how a binary code is worn down to coin tosses, and one step back.

At time t of T a bit still shows itself with probability $k_t$, and is a fair coin otherwise:

$q(b_t = 1 | b_0) = k_t b_0 + (1 - k_t) / 2$, $k_0 = 1$, $k_T = 0$.

A model that guesses $b_0$ from $b_t$ gives with `one_step_back` the distribution of $b_{t-1}$: that
is how codes are sampled, from coin tosses backwards.

Reference:
    Wang et al. (2023), "Binary latent diffusion", CVPR, and its code.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def linear_survival(steps: int) -> Float[Array, " steps_and_one"]:
    r"""$k_0 .. k_T$ for steps that replace a share $1/(T - t + 1)$ of the bits: $1 - t/T$."""
    _check(steps)
    return 1 - jnp.arange(steps + 1) / steps


def cosine_survival(steps: int) -> Float[Array, " steps_and_one"]:
    r"""$k_0 .. k_T$ with $k_t = \frac12 + \frac12 \cos(\pi t / T)$: slow at both ends."""
    _check(steps)
    # Exactly zero at the end: rounding would leave a trace of the code.
    return (0.5 + 0.5 * jnp.cos(jnp.pi * jnp.arange(steps + 1) / steps)).at[-1].set(0.0)


def wear(
    key: Key[Array, ""], bits: Float[Array, "..."], survival: Float[Array, "..."]
) -> Float[Array, "..."]:
    r"""Bits some time later: $\mathrm{Bernoulli}(k b + (1 - k) / 2)$.

    Args:
        key: of the draws.
        bits: zeros and ones.
        survival: $k_t$ to come from $b_0$, or $k_t / k_{t-1}$ to come from $b_{t-1}$.
    """
    return jax.random.bernoulli(key, _show(bits, survival)).astype(bits.dtype)


def one_step_back(
    bits: Float[Array, "..."],
    guess: Float[Array, "..."],
    before: Float[Array, ""],
    now: Float[Array, ""],
) -> Float[Array, "..."]:
    r"""Probability that a bit was one a step ago, by Bayes' rule.

    $p(b_{t-1} | b_t, \hat b_0) \propto q(b_t | b_{t-1})\, q(b_{t-1} | \hat b_0)$, the second factor
    averaged over the guess: $k_{t-1} \hat b_0 + (1 - k_{t-1}) / 2$.

    Args:
        bits: $b_t$, zeros and ones.
        guess: probability that $b_0$ is one.
        before: $k_{t-1}$, positive.
        now: $k_t$, at most $k_{t-1}$.
    """
    prior, same = _show(guess, before), (1 + now / before) / 2
    one = prior * jnp.where(bits > 0.5, same, 1 - same)
    zero = (1 - prior) * jnp.where(bits > 0.5, 1 - same, same)
    # Both are zero where a sure guess and bits that were not worn contradict each other.
    return jnp.where(one + zero > 0, one / jnp.where(one + zero > 0, one + zero, 1.0), prior)


def _show(bits: Array, survival: Array) -> Array:
    return survival * bits + (1 - survival) / 2


def _check(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{steps=}: a diffusion needs at least 1")
