"""Dependency-sparse dictionaries: each latent moves few coordinates, through any decoder."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries import scores as encoders
from jaxinterp.dictionaries.atoms import mean_centre
from jaxinterp.dictionaries.base import Dictionary, LossInfo, Stats, unit_rows
from jaxinterp.dictionaries.errors import Measure, squared_error
from jaxinterp.dictionaries.info import loss_info
from jaxinterp.dictionaries.penalties import Weight, weight_at
from jaxinterp.dictionaries.variational import Spread, kl_to_standard, learned_spread

Params = dict[str, Array]


def dependency_sparse(
    width: int,
    hidden: int,
    *,
    weight: Weight = 0.05,
    kl_weight: Weight = 0.05,
    spread: Callable[[], Spread] = learned_spread,
    measure: Measure = squared_error,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""A variational autoencoder whose decoder has a sparse Jacobian.

    $\mu$ is a perceptron of one hidden layer of x, $z = \mu + \sigma \epsilon$ in training and
    $\mu$ at inference, $g(z) = \mathrm{lrelu}(z W_d + c)\, O + b_d$, and

    $L = \mathrm{E}\lVert x - g(z) \rVert^2 + \beta\, \mathrm{KL} + \alpha\, \mathrm{E}\,
    \mathrm{mean}_{ij} |\partial g_i / \partial z_j|$:

    what is sparse is which coordinates depend on which latents, not which latents are active.

    Args:
        width: number of latents, few.
        hidden: units of the hidden layer of encoder and decoder; even.
        weight: $\alpha$, or a schedule of it.
        kl_weight: $\beta$, or a schedule of it.
        spread: $\sigma$: `learned_spread` or `unit_spread`.
        measure: the reconstruction error.
        dead_after: rows without activity after which a latent is reported as dead.

    Returns:
        The dictionary; its codes are dense, of either sign. Parameters: those of the `mlp` encoder
        and the spread, `decoder` $W_d$ (width, hidden), `write_bias` c (hidden), `output` O
        (hidden, d), `decoder_bias` (d). A step makes the Jacobian of every row: (rows, width, d).

    Raises:
        ValueError: an odd or empty hidden layer.

    Reference:
        "Diverse dictionary learning", arXiv 2604.17568, of which a detailed note was read; the
        weights are those of its synthetic experiments.
    """
    encoder, noise = encoders.mlp(hidden), spread()

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> Params:
        keys, d = jax.random.split(key, 4), sample.shape[1]
        # The encoder starts along random directions; it has no atoms in the input space to copy.
        along = {"decoder": unit_rows(jax.random.normal(keys[0], (width, d)))}
        return {
            **encoder.init(keys[1], along, sample),
            **noise.init(width, d),
            "decoder": jax.random.normal(keys[2], (width, hidden)) * width**-0.5,
            "write_bias": jnp.zeros(hidden),
            "output": jax.random.normal(keys[3], (hidden, d)) * hidden**-0.5,
            "decoder_bias": mean_centre(sample),
        }

    def encode_rows(params: Params, x: Float[Array, "n d"]) -> Float[Array, "n width"]:
        return encoders.dense_scores(encoder, params, x)

    def encode(params: Params, x: Float[Array, "... d"]) -> Float[Array, "... width"]:
        return encoders.over_rows(encode_rows, params, x)

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b t"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        mean = encode_rows(params, x)
        log_variance = noise.log_variance(params, x)
        z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape, mean.dtype)
        x_hat = decode(params, z)
        kl = kl_to_standard(mean, log_variance).sum(1).mean(dtype=jnp.float32)
        cost = mean_absolute(jacobian(params, z))
        info = loss_info(z, x_hat, target, stats, dead_after, {"kl": kl, "jacobian": cost})
        value = measure(x_hat, target) + weight_at(kl_weight, stats.step) * kl
        return value + weight_at(weight, stats.step) * cost, info

    same = lambda params: params  # noqa: E731
    return Dictionary(width, init, encode, decode, loss, same, lambda params, gradient: gradient)


def decode(params: Params, z: Float[Array, "... width"]) -> Float[Array, "... d"]:
    """What codes write, through one hidden layer."""
    ahead = (1,) * (z.ndim - 1) + (-1,)
    inner = jax.nn.leaky_relu(z @ params["decoder"] + params["write_bias"].reshape(ahead))
    return inner @ params["output"] + params["decoder_bias"].reshape(ahead)


def jacobian(params: Params, z: Float[Array, "n width"]) -> Float[Array, "n width d"]:
    """How each coordinate moves with each latent, at each row of codes."""
    return jax.vmap(jax.jacfwd(partial(decode, params)))(z).swapaxes(1, 2)


def mean_absolute(jacobian: Float[Array, "..."], *, softness: float = 1e-3) -> Float[Array, ""]:
    r"""$\mathrm{mean} \sqrt{J^2 + s^2}$: an L1 norm whose gradient is smooth at zero.

    Args:
        jacobian: of any shape; that of a linear decoder is the decoder.
        softness: $s$, in units of the Jacobian.
    """
    return jnp.sqrt(jnp.square(jacobian) + softness**2).mean(dtype=jnp.float32)
