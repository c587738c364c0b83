"""Group-sparse predictive coding: each latent predicts few groups of coordinates."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries import atoms as atom_kinds
from jaxinterp.dictionaries import scores as encoders
from jaxinterp.dictionaries.base import Dictionary, LossInfo, Stats
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.errors import Measure, squared_error
from jaxinterp.dictionaries.info import loss_info
from jaxinterp.dictionaries.learner import Learner
from jaxinterp.dictionaries.penalties import Weight, weight_at
from jaxinterp.dictionaries.variational import kl_to_standard

Params = dict[str, Array]


def predictive(
    width: int,
    groups: Sequence[int],
    *,
    prior_weight: Weight = 1e-2,
    measure: Measure = squared_error,
    scores: Callable[[], encoders.Scores] = encoders.linear,
    centre: Callable[[Array], Array] = atom_kinds.mean_centre,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""Dense codes of a context that predict a target, to be learned by `shrinking`.

    $z = (x - b_d) W_e^\top + b_e$, $\hat y = z W_d + b_d$, $L = \mathrm{E}\lVert y - \hat y
    \rVert^2 + \beta\, \mathrm{E}\, \frac12 \lVert z \rVert^2$. The coordinates of y form groups
    (parts of an image, heads, sites), and the rows of $W_d$ are sparse in groups, not the codes.
    The second term keeps long codes and short atoms from escaping that.

    Args:
        width: number of latents.
        groups: sizes of the groups, neighbouring coordinates each.
        prior_weight: $\beta$, or a schedule of it.
        measure: the error of the prediction.
        scores: the encoder; `mlp` for one that is not linear.
        centre: first decoder bias.
        dead_after: rows without activity after which a latent is reported as dead.

    Returns:
        The dictionary; its codes are dense, of either sign. Its batch is x, which predicts itself,
        or a pair (context, target) of one dimension. Parameters: as `relu`.

    Raises:
        ValueError: groups that are empty or do not sum to the dimension.

    Reference:
        The group sparsity of "SparseJEPA", arXiv 2504.16140, which takes it from oi-VAE (Ainsworth
        et al. 2018, arXiv 1802.06765); the weights could not be checked. A joint-embedding network
        around it (a target encoder that follows by a running mean) is the caller's.
    """
    _check_groups(groups)
    encoder, kind = scores(), atom_kinds.free(norm=1.0)

    def init(key: Key[Array, ""], sample: Any) -> Params:
        target = sample[1] if isinstance(sample, tuple) else sample
        if sum(groups) != target.shape[1]:
            raise ValueError(
                f"groups {tuple(groups)} hold {sum(groups)} coordinates, the activations have "
                f"{target.shape[1]}"
            )
        return atom_kinds.start(key, target, width, encoder, kind, centre)

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
        del key
        z = encode_rows(params, x)
        y_hat = linear_decode(params, z)
        prior = kl_to_standard(z, jnp.zeros((1, 1))).sum(1).mean(dtype=jnp.float32)
        own = {"prior": prior, "links": links(params, groups).mean(dtype=jnp.float32)}
        info = loss_info(z, y_hat, target, stats, dead_after, own)
        return measure(y_hat, target) + weight_at(prior_weight, stats.step) * prior, info

    return Dictionary(width, init, encode, linear_decode, loss, kind.project, kind.tangent)


def shrinking(learner: Learner, groups: Sequence[int], amount: float | Array) -> Learner:
    r"""A learner whose every step ends with the proximal map of a group lasso on `decoder`.

    It minimises the learner's loss plus $\lambda \sum_{j,g} \lVert W_{d,j,g} \rVert$ where plain
    gradient steps of rate $\eta$ are taken and the amount is $\eta \lambda$; with Adam nearly so.
    What is zero is exactly zero.

    Args:
        learner: of a dictionary with a `decoder` (width, d); its state has `params`.
        groups: sizes of the groups of coordinates.
        amount: by how much each block gets shorter in a step.
    """

    def step(state: Any, batch: Any) -> tuple[Any, dict[str, Array]]:
        state, info = learner.step(state, batch)
        short = shrink_groups(state.params["decoder"], groups, amount)
        return state._replace(params=state.params | {"decoder": short}), info

    return learner._replace(step=step)


def shrink_groups(
    decoder: Float[Array, "width d"], groups: Sequence[int], amount: float | Float[Array, ""]
) -> Float[Array, "width d"]:
    r"""Every block of a latent and a group gets shorter by `amount`; at length zero it stays there.

    $W_{j,g} \max(0, 1 - t / \lVert W_{j,g} \rVert) = \arg\min_V \frac12 \lVert V - W \rVert^2 + t
    \sum_{j,g} \lVert V_{j,g} \rVert$.

    Args:
        decoder: $W$.
        groups: sizes of the groups of neighbouring columns.
        amount: $t$.

    Raises:
        ValueError: groups that are empty or do not sum to the columns.

    Reference:
        Yuan & Lin (2006), "Model selection and estimation in regression with grouped variables".
    """
    norms = _block_norms(decoder, groups)
    keep = jnp.where(norms > amount, 1 - amount / jnp.where(norms > 0, norms, 1.0), 0.0)
    return decoder * jnp.repeat(keep, np.asarray(groups), axis=1, total_repeat_length=sum(groups))


def links(params: Params, groups: Sequence[int]) -> Float[Array, "width groups"]:
    """1 where a latent writes to a group at all, else 0."""
    return (_block_norms(params["decoder"], groups) > 0).astype(jnp.float32)


def multi_information(covariance: Float[Array, "n n"]) -> Float[Array, ""]:
    r"""What Gaussian variables tell about each other, in nats.

    $\sum_i H(z_i) - H(z) = \frac12 (\sum_i \log \Sigma_{ii} - \log \det \Sigma)$.
    """
    return 0.5 * (jnp.log(jnp.diagonal(covariance)).sum() - jnp.linalg.slogdet(covariance)[1])


def _block_norms(decoder: Array, groups: Sequence[int]) -> Array:
    _check_groups(groups)
    if sum(groups) != decoder.shape[1]:
        raise ValueError(
            f"groups {tuple(groups)} hold {sum(groups)} coordinates, the atoms have "
            f"{decoder.shape[1]}"
        )
    which = np.repeat(np.arange(len(groups)), np.asarray(groups))
    squared = jax.ops.segment_sum(jnp.square(decoder).T, jnp.asarray(which), len(groups)).T
    return jnp.sqrt(squared)


def _check_groups(groups: Sequence[int]) -> None:
    if not len(groups) or min(groups) < 1:
        raise ValueError(f"groups {tuple(groups)}: give the size of each, at least 1")
