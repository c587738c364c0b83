"""ITDA: a dictionary of real activations, grown wherever those it has reconstruct badly."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from jaxinterp.dictionaries import metrics
from jaxinterp.dictionaries.atoms import zero_centre
from jaxinterp.dictionaries.base import Codes, Dictionary, LossInfo, Stats, unit_rows
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.errors import squared_error
from jaxinterp.dictionaries.fixed_k import check_k
from jaxinterp.dictionaries.info import loss_info
from jaxinterp.dictionaries.learner import Learner
from jaxinterp.dictionaries.matching import matching_codes, merge_repeats
from jaxinterp.dictionaries.scores import matched, over_rows
from jaxinterp.dictionaries.train import Progress, Stopped

Params = dict[str, Array]
EMPTY = -1  # the label of a place without an atom
_SIGNED = partial(matching_codes, signed=True)
_SAME = 1e-6  # one minus the cosine of rows that are one row up to rounding


class Growth(NamedTuple):
    """What `grow` carries along.

    Attributes:
        params: the dictionary, its empty places of zeros.
        count: atoms in it.
        rows: rows seen.
        step: batches seen.
        refused: rows that found no place.
    """

    params: Params
    count: Int[Array, ""]
    rows: Int[Array, ""]
    step: Int[Array, ""]
    refused: Int[Array, ""]


def itda(
    width: int,
    k: int,
    *,
    pursuit: Callable[..., Codes] = _SIGNED,
    centre: Callable[[Array], Array] = zero_centre,
) -> Dictionary:
    r"""Inference-time decomposition of activations: no encoder, nothing trained.

    $z = \mathrm{MP}_k(x - b_d; W_d)$, $\hat x = z W_d + b_d$, each row of $W_d$ an activation
    scaled to length one, or zeros where there is still room. `grow` fills it.

    Args:
        width: places for atoms.
        k: atoms per row.
        pursuit: the coder, `matching.matching_codes` or one of `refitting`: the paper's text says
            matching pursuit, its algorithm 1 orthogonal.
        centre: decoder bias, which growing does not change.

    Returns:
        The dictionary. Parameters: `decoder` (width, d), `decoder_bias` (d) and `label` (width),
        which activation each atom is; `EMPTY` where there is none.

    Raises:
        ValueError: k outside 1 .. width; when it encodes, as `matching.matching_codes`.

    Reference:
        Leask et al. (2025), "Inference-time decomposition of activations (ITDA)", arXiv
        2505.17769, sections 3.2 and 3.3, algorithm 1.
    """
    check_k(k, width)
    scores = matched()

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> Params:
        del key
        return {
            "decoder": jnp.zeros((width, sample.shape[1])),
            "decoder_bias": centre(sample.astype(jnp.float32)),
            "label": jnp.full(width, EMPTY, jnp.int32),
        }

    def coded(params: Params, x: Float[Array, "n d"]) -> Codes:
        rows, atoms, _ = scores.affine(params, x)
        return merge_repeats(pursuit(rows, atoms, k))

    def encode(params: Params, x: Float[Array, "... d"]) -> Codes:
        return over_rows(coded, params, x)

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b d"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        del key
        codes = coded(params, x)
        x_hat = linear_decode(params, codes)
        # An atom stays what it was, however long it has been silent.
        info = loss_info(codes, x_hat, target, stats, jnp.iinfo(jnp.int32).max, {})
        return squared_error(x_hat, target), info

    return Dictionary(
        width, init, encode, linear_decode, loss, lambda p: p, lambda p, gradient: gradient
    )


def grow(dictionary: Dictionary, threshold: float | Array) -> Learner:
    r"""Adds every activation that the dictionary so far reconstructs badly.

    $\ell(x) = \lVert x - \hat x \rVert^2 > \tau$ adds $(x - b_d) / \lVert x - b_d \rVert$, in the
    order of the rows, while there is room. The dictionary stands still within a batch, so the first
    batch becomes the first atoms, and small batches give small dictionaries. Of rows in one
    direction the first is taken.

    A full dictionary refuses further rows and says how many (`refused`); `until_full` stops there.

    Args:
        dictionary: an `itda`.
        threshold: $\tau$, in squared units of the activations; the only knob of the size.

    Returns:
        The learner. Its batch is (b, d), whose labels are the numbers of the rows since the
        beginning, or a pair of that and labels (b), whole numbers from 0 on that name the same
        thing (text and place in it) for every dictionary that is to be compared.

    Raises:
        ValueError: a concrete threshold that is negative.
    """
    if not isinstance(threshold, Tracer) and not float(threshold) >= 0:
        raise ValueError(f"{threshold=}: squared errors need one of at least 0")

    def init(key: Key[Array, ""], sample: Any) -> Growth:
        x = sample[0] if isinstance(sample, tuple) else sample
        zeros = [jnp.zeros((), jnp.int32) for _ in range(4)]
        return Growth(dictionary.init(key, jnp.asarray(x)), *zeros)

    def step(state: Growth, batch: Any) -> tuple[Growth, dict[str, Array]]:
        if isinstance(batch, tuple):
            x, labels = batch
        else:
            x, labels = batch, state.rows + jnp.arange(len(batch), dtype=jnp.int32)
        params = state.params
        codes = dictionary.encode(params, x)
        x_hat = dictionary.decode(params, codes)
        error = jnp.square(x - x_hat).sum(1)
        rows = unit_rows(x.astype(jnp.float32) - params["decoder_bias"][None])
        wanted = _first_in_direction(error > threshold, rows)
        place = state.count + jnp.cumsum(wanted, dtype=jnp.int32) - 1
        place = jnp.where(wanted, place, dictionary.width)  # out of bounds: dropped
        decoder = params["decoder"].at[place].set(rows, mode="drop")
        label = params["label"].at[place].set(labels.astype(jnp.int32), mode="drop")
        asked = wanted.sum(dtype=jnp.int32)
        count = jnp.minimum(state.count + asked, dictionary.width)
        refused = asked - (count - state.count)
        info = {
            "loss": error.mean(),
            "variance_explained": metrics.fit(x, x_hat).variance_explained(),
            "l0": metrics.usage(codes, dictionary.width).l0(),
            "atoms": count.astype(jnp.float32),
            "refused": refused.astype(jnp.float32),
        }
        params = params | {"decoder": decoder, "label": label}
        after = (state.rows + len(x), state.step + 1, state.refused + refused)
        return Growth(params, count, *after), info

    return Learner(init, step)


def until_full(progress: Iterable[Progress]) -> Iterator[Progress]:
    """The progress of a fit that stops once a row found no place, rather than going on.

        for at in until_full(fit(grow(dictionary, threshold), state, x, steps=..., batch=...)):

    Raises:
        Stopped: with the last state, which holds all that was added before.
    """
    for at in progress:
        refused = at.info.get("refused")
        if refused is not None and refused.sum() > 0:
            raise Stopped(
                f"the dictionary is full: {int(refused.sum())} rows up to step {at.step} found no "
                "place; give it more places, or raise the threshold of the error",
                at.step,
                at.state,
                at.position,
            )
        yield at


def _first_in_direction(wanted: Bool[Array, " b"], rows: Array) -> Bool[Array, " b"]:
    """Those of the wanted unit rows that no earlier wanted row has the line of."""
    cosines = jnp.abs(jnp.matmul(rows, rows.T, precision="highest"))
    earlier = jnp.tril(jnp.ones(cosines.shape, bool), -1) & wanted[None]
    return wanted & ~((cosines > 1 - _SAME) & earlier).any(1)
