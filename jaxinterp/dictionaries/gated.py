"""Gated sparse autoencoder: whether a latent is active and how much are decided apart."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries import atoms as atom_kinds
from jaxinterp.dictionaries import scores as encoders
from jaxinterp.dictionaries.base import Dictionary, LossInfo, Stats
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.errors import Measure, Objective, squared_error, whole
from jaxinterp.dictionaries.info import loss_info
from jaxinterp.dictionaries.penalties import (
    Activity,
    Penalty,
    Weight,
    atom_norms,
    plain_l1,
    weight_at,
)

Params = dict[str, Array]


def gated(
    width: int,
    *,
    weight: Weight = 0.1,
    penalty: Penalty = plain_l1,
    measure: Measure = squared_error,
    objective: Objective = whole,
    scores: Callable[[], encoders.Scores] = encoders.linear,
    atoms: Callable[[], atom_kinds.Atoms] = atom_kinds.unit,
    centre: Callable[[Array], Array] = atom_kinds.zero_centre,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""A gated sparse autoencoder.

    $s = (x - b_d) W_e^\top$, gate $\pi = s + b_g$, magnitude $m = e^{r} s + b_m$,
    $z = 1[\pi > 0]\, \mathrm{relu}(m)$, $\hat x = z W_d + b_d$, and

    $L = \mathrm{E}\lVert x - \hat x \rVert^2 + \lambda\, \Omega(\mathrm{relu}(\pi)) +
    \mathrm{E}\lVert x - \mathrm{relu}(\pi)\, \mathrm{sg}(W_d) - \mathrm{sg}(b_d) \rVert^2$.

    The penalty acts on the gate alone, so it does not shrink the codes; the third term trains the
    gate, which has no gradient through its step, and does not move the decoder. (SAELens lets that
    term move the decoder; this is the paper's form.) One product gives both paths.

    Args:
        width: number of latents.
        weight: $\lambda$, or a schedule of it.
        penalty: $\Omega$, from `penalties`; `l1` where the atoms are free.
        measure: the reconstruction error, of both reconstructions.
        objective: what is measured: `whole`, or nested prefixes (`matryoshka`).
        scores: the encoder.
        atoms: the kind of decoder.
        centre: first decoder bias.
        dead_after: rows without activity after which a latent is reported as dead.

    Returns:
        The dictionary; its codes are dense. Parameters: `encoder` and `decoder` (width, d),
        `encoder_bias` $b_g$, `magnitude_bias` $b_m$ and `log_magnitude` $r$ (width),
        `decoder_bias` (d).

    Reference:
        Rajamanoharan et al. (2024), arXiv 2404.16014.
    """
    encoder, kind = scores(), atoms()

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> Params:
        params = atom_kinds.start(key, sample, width, encoder, kind, centre)
        return params | {"magnitude_bias": jnp.zeros(width), "log_magnitude": jnp.zeros(width)}

    def gate_and_codes(params: Params, x: Float[Array, "n d"]) -> tuple[Array, Array]:
        rows, matrix, gate_bias = encoder.affine(params, x)
        s = rows @ matrix.T
        gate = s + gate_bias[None]
        magnitude = jnp.exp(params["log_magnitude"])[None] * s + params["magnitude_bias"][None]
        # Asked this way round, scores that are NaN stay so: a bad row shows.
        return gate, jnp.where(gate <= 0, 0.0, jax.nn.relu(magnitude))

    def encode(params: Params, x: Float[Array, "... d"]) -> Float[Array, "... width"]:
        return encoders.over_rows(lambda p, rows: gate_and_codes(p, rows)[1], params, x)

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b t"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        del key
        gate, z = gate_and_codes(params, x)
        opening = jax.nn.relu(gate)
        x_hat, error = objective(params, z, target, measure)
        _, gate_error = objective(jax.lax.stop_gradient(params), opening, target, measure)
        count = (gate > 0).sum(1, dtype=jnp.float32)
        cost = penalty(Activity(opening, atom_norms(params["decoder"]), count))
        own = {"penalty": cost, "gate_error": gate_error}
        info = loss_info(z, x_hat, target, stats, dead_after, own)
        return error + weight_at(weight, stats.step) * cost + gate_error, info

    return Dictionary(width, init, encode, linear_decode, loss, kind.project, kind.tangent)
