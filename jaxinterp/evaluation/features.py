"""What a person needs to see of a latent: where it fires, how strongly, what it promotes."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.data import Rows
from jaxinterp.dictionaries.base import Codes, Dictionary
from jaxinterp.dictionaries.base import latents as latents_of
from jaxinterp.encoders.encoder import Encoder


class TopRows(NamedTuple):
    """The strongest activation of each latent in each of its best rows of text.

    Attributes:
        values: activations, strongest first; zero where a latent fired in fewer rows.
        rows: index of the row of text.
        positions: index of the token within the row.
    """

    values: Float[np.ndarray, "width n"]
    rows: Int[np.ndarray, "width n"]
    positions: Int[np.ndarray, "width n"]


def top_rows(
    dictionary: Dictionary,
    params: Any,
    batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    n: int,
) -> TopRows:
    """Finds, in one pass and for all latents at once, the n rows where each is strongest.

    Args:
        dictionary: any variant, its codes sparse or dense.
        params: its parameters.
        batches: `(activations, row, position)` triples; equal sizes compile once.
        n: rows kept per latent, at most one hit each, so that contexts differ.

    Returns:
        The hits.
    """
    encode = jax.jit(dictionary.encode)
    width = dictionary.width
    best = TopRows(*(np.zeros((width, n), t) for t in (np.float32, np.int32, np.int32)))
    for x, rows, positions in batches:
        at, latent, value = _active(encode(params, jnp.asarray(x)))
        new = latent, value, rows[at], positions[at]
        old = (np.repeat(np.arange(width), n), *(a.ravel() for a in best))
        best = _keep_best(*(np.concatenate(pair) for pair in zip(old, new, strict=True)), width, n)
    return best


def _active(codes: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, latent, value) of every positive activation of a batch."""
    codes = jax.tree.map(np.asarray, latents_of(codes))
    values = codes.values if isinstance(codes, Codes) else codes
    row, place = np.nonzero(values > 0)
    latent = codes.indices[row, place] if isinstance(codes, Codes) else place
    return row, latent, values[row, place]


def _keep_best(
    latent: np.ndarray, value: np.ndarray, row: np.ndarray, position: np.ndarray, width: int, n: int
) -> TopRows:
    order = np.lexsort((-value, row, latent))  # the best hit of each (latent, row) comes first
    latent, value, row, position = (a[order] for a in (latent, value, row, position))
    first = np.ones(len(latent), bool)
    first[1:] = (latent[1:] != latent[:-1]) | (row[1:] != row[:-1])
    latent, value, row, position = (a[first] for a in (latent, value, row, position))
    order = np.lexsort((row, -value, latent))
    latent, value, row, position = (a[order] for a in (latent, value, row, position))
    rank = np.arange(len(latent)) - np.searchsorted(latent, latent)  # place within its latent
    keep = rank < n
    best = TopRows(*(np.zeros((width, n), t) for t in (np.float32, np.int32, np.int32)))
    for target, source in zip(best, (value, row, position), strict=True):
        target[latent[keep], rank[keep]] = source[keep]
    return best


def histograms(
    dictionary: Dictionary,
    params: Any,
    batches: Iterable[np.ndarray],
    peak: Float[np.ndarray, " width"],
    *,
    bins: int = 24,
) -> Float[np.ndarray, "width bins"]:
    """Counts of each latent's positive activations in equal bins from 0 to its peak.

    Args:
        dictionary: any variant, its codes sparse or dense.
        params: its parameters.
        batches: activations; equal sizes compile once.
        peak: largest activation of each latent.
        bins: number of bins.

    Returns:
        The counts.
    """

    @jax.jit
    def count(params: Any, x: Array, width_of_bin: Array) -> Array:
        codes = latents_of(dictionary.encode(params, x))
        if not isinstance(codes, Codes):
            codes = Codes(codes, jnp.broadcast_to(jnp.arange(dictionary.width)[None], codes.shape))
        place = jnp.floor(codes.values / width_of_bin[codes.indices]).astype(jnp.int32)
        place = jnp.clip(place, 0, bins - 1)
        zeros = jnp.zeros((dictionary.width, bins))
        return zeros.at[codes.indices, place].add(jnp.where(codes.values > 0, 1.0, 0.0))

    width_of_bin = jnp.asarray(np.where(peak > 0, peak, 1.0) / bins, jnp.float32)
    counts = np.zeros((dictionary.width, bins))
    for x in batches:
        counts += np.asarray(count(params, jnp.asarray(x), width_of_bin))
    return counts


def row_activations(
    encoder: Encoder,
    dictionary: Dictionary,
    params: Any,
    rows: Rows,
    site: str,
    latents: Int[np.ndarray, " m"],
    which: Int[np.ndarray, " m"],
    *,
    batch: int = 32,
) -> Float[np.ndarray, "m seq"]:
    """Activation of one latent along one row of text, for m (latent, row) pairs.

    Args:
        encoder: the model.
        dictionary: any variant, its codes sparse or dense.
        params: its parameters.
        rows: the text.
        site: the site the dictionary reads.
        latents: latent of each pair.
        which: row of each pair.
        batch: rows in a forward.

    Returns:
        Activations at every position; zero at the first and behind the end of the document.
    """
    different, inverse = np.unique(which, return_inverse=True)

    @jax.jit
    def codes_of(model_params: Any, params: Any, tokens: Array, mask: Array) -> Codes | Array:
        _, captured = encoder.forward(
            model_params, encoder.config, tokens, mask=mask, capture=(site,), return_logits=False
        )
        return latents_of(dictionary.encode(params, captured[site]))

    result = np.zeros((len(latents), rows.tokens.shape[1]), np.float32)
    for start in range(0, len(different), batch):
        chosen = different[start : start + batch]
        filled = np.resize(chosen, batch)
        codes = codes_of(encoder.params, params, rows.tokens[filled], rows.mask[filled])
        pairs = np.flatnonzero((inverse >= start) & (inverse < start + len(chosen)))
        local = inverse[pairs] - start
        if isinstance(codes, Codes):
            hit = np.asarray(codes.indices)[local] == latents[pairs][:, None, None]
            result[pairs] = np.where(hit, np.asarray(codes.values)[local], 0).sum(-1)
        else:
            result[pairs] = np.asarray(codes)[local, :, latents[pairs]]
    real = rows.mask[which].copy()
    real[:, 0] = False
    return result * real


def direct_logits(
    encoder: Encoder, atoms: Float[Array, "m d"], *, n: int = 10
) -> tuple[Array, Array, Array, Array]:
    """Output tokens that directions promote and suppress, read straight off the unembedding.

    The direction passes the final norm's gain and the unembedding; the norm's scale, which
    depends on the input, is left out, and the mean over the vocabulary is taken away, since a
    softmax does not see it. Later layers are skipped: it is the direct path only.

    Args:
        encoder: a decoder-only language model.
        atoms: directions in the residual stream.
        n: tokens on each side.

    Returns:
        (promoted logits, promoted ids, suppressed logits, suppressed ids), each (m, n).
    """
    params, config = encoder.params, encoder.config
    gain = params["ln_final"]["scale"]
    gain = gain + 1 if config.norm_unit_offset else gain
    centred = atoms - atoms.mean(1, keepdims=True) if config.norm == "layer" else atoms
    unembed = params["unembed"]["kernel"] if "unembed" in params else params["embed"]["tokens"].T
    logits = (centred * gain[None]) @ unembed
    logits = logits - logits.mean(1, keepdims=True)
    up, up_ids = jax.lax.top_k(logits, n)
    down, down_ids = jax.lax.top_k(-logits, n)
    return up, up_ids, -down, down_ids
