"""Binary codes: every latent is a bit, drawn in training and rounded at inference."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries import atoms as atom_kinds
from jaxinterp.dictionaries import quantise
from jaxinterp.dictionaries import scores as encoders
from jaxinterp.dictionaries.base import Dictionary, LossInfo, Stats
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.errors import Measure, unexplained
from jaxinterp.dictionaries.info import loss_info
from jaxinterp.dictionaries.penalties import Weight, weight_at

Params = dict[str, Array]


def binary(
    width: int,
    *,
    code_weight: Weight = 0.0,
    measure: Measure = unexplained,
    scores: Callable[[], encoders.Scores] = encoders.linear,
    atoms: Callable[[], atom_kinds.Atoms] = atom_kinds.free,
    centre: Callable[[Array], Array] = atom_kinds.mean_centre,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""An autoencoder whose code is a row of bits.

    $p = \sigma((x - b_d) W_e^\top + b_e)$; in training $b_j \sim \mathrm{Bernoulli}(p_j)$ with
    gradients straight through to p, in `encode` $b_j = 1[p_j > \frac12]$; $\hat x = b W_d + b_d$;

    $L = \mathrm{error}(\hat x, x) + \lambda\, \mathrm{E}\, p (1 - p)$, the mean over rows and bits.

    The second term makes bits sure of themselves. The published code applies the logistic function
    twice in it, which leaves it between 0.20 and 0.25 whatever the bits do; once is meant here.

    Args:
        width: number of bits.
        code_weight: $\lambda$, or a schedule of it; 0 in the published code.
        measure: the reconstruction error.
        scores: the encoder; `mlp` for one with a hidden layer.
        atoms: `free`, as a bit has no size of its own, or `unit`.
        centre: first decoder bias; the mean, so that bits begin as often on as off.
        dead_after: rows without activity after which a bit is reported as dead.

    Returns:
        The dictionary; its codes are dense zeros and ones. Its loss reports `usage_bits`, the mean
        entropy of a bit over the batch (1: as often on as off), and `doubt_bits`, the mean entropy
        of a bit given its row (0: sure).

    Reference:
        Wang et al. (2023), "Binary latent diffusion", CVPR; its code.
    """
    encoder, kind = scores(), atoms()

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> Params:
        return atom_kinds.start(key, sample, width, encoder, kind, centre)

    def encode(params: Params, x: Float[Array, "... d"]) -> Float[Array, "... width"]:
        def rows(p: Params, x: Array) -> Array:
            h = encoders.dense_scores(encoder, p, x)
            return (h > 0).astype(h.dtype)

        return encoders.over_rows(rows, params, x)

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b t"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        p = jax.nn.sigmoid(encoders.dense_scores(encoder, params, x))
        z = draw_bits(key, p)
        x_hat = linear_decode(params, z)
        doubt = (p * (1 - p)).mean(dtype=jnp.float32)
        own = {
            "code": doubt,
            "usage_bits": bit_entropy(p.mean(0, dtype=jnp.float32)).mean(),
            "doubt_bits": bit_entropy(p.astype(jnp.float32)).mean(),
        }
        info = loss_info(z, x_hat, target, stats, dead_after, own)
        return measure(x_hat, target) + weight_at(code_weight, stats.step) * doubt, info

    return Dictionary(width, init, encode, linear_decode, loss, kind.project, kind.tangent)


def draw_bits(key: Key[Array, ""], p: Float[Array, "..."]) -> Float[Array, "..."]:
    """Bits that are one with probability p, with the derivative of p."""
    return quantise.straight_through(jax.random.bernoulli(key, p).astype(p.dtype), p)


def bit_entropy(p: Float[Array, "..."]) -> Float[Array, "..."]:
    """Entropy in bits of a coin that shows one with probability p; 0 for a sure one."""

    def term(q: Array) -> Array:
        return q * jnp.log2(jnp.where(q > 0, q, 1.0))

    return -term(p) - term(1 - p)
