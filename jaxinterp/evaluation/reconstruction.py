"""How well a dictionary reconstructs held-out activations, and which latents it uses."""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinterp.dictionaries.base import Dictionary
from jaxinterp.dictionaries.metrics import (
    Fit,
    Usage,
    encoder_decoder_cosine,
    fit,
    merge_fits,
    merge_usages,
    to_host,
    usage,
)

Batch = Float[Array | np.ndarray, "_ ..."]


class Reconstruction(NamedTuple):
    """Sums over rows in float64; batches and processes merge exactly.

    Attributes:
        fit: of targets and their reconstructions.
        usage: of the latents.
    """

    fit: Fit
    usage: Usage

    def metrics(self) -> dict[str, float]:
        """Every number of `dictionaries.metrics`, by the names that training uses."""
        both = self.fit.metrics() | self.usage.metrics()
        return {name: float(value) for name, value in both.items()}


def measure(
    dictionary: Dictionary, params: Any, batches: Iterable[Batch | tuple[Batch, Batch]]
) -> Reconstruction:
    """Runs a dictionary over batches of activations.

    Args:
        dictionary: any variant, with sparse or dense codes.
        params: its parameters.
        batches: rows, or pairs (rows, target) for a transcoder; batches of equal size compile once.

    Returns:
        The sums, accumulated in float64 over batches.

    Raises:
        ValueError: no rows.
    """
    total: Reconstruction | None = None
    for batch in batches:
        x, target = batch if isinstance(batch, tuple) else (batch, batch)
        if not len(x):
            continue
        part = to_host(_sums(dictionary, params, jnp.asarray(x), jnp.asarray(target)))
        total = part if total is None else merge(total, part)
    if total is None:
        raise ValueError("no activation rows to measure on: harvest some held-out tokens")
    return total


@functools.partial(jax.jit, static_argnums=0)  # several parameters of a dictionary compile once
def _sums(dictionary: Dictionary, params: Any, x: Array, target: Array) -> Reconstruction:
    codes = dictionary.encode(params, x)
    reconstruction = dictionary.decode(params, codes)
    return Reconstruction(fit(target, reconstruction), usage(codes, dictionary.width))


def merge(a: Reconstruction, b: Reconstruction) -> Reconstruction:
    """The sums over the rows of both."""
    return Reconstruction(merge_fits(a.fit, b.fit), merge_usages(a.usage, b.usage))


def mean_encoder_decoder_cosine(
    params: Any, fired: Float[np.ndarray, " width"] | None = None
) -> float | None:
    """Mean cosine of reading and writing directions over the latents that fired.

    Args:
        params: a dictionary's parameters.
        fired: rows on which each latent is active; None for all latents.

    Returns:
        The mean; None where the two do not share a space (tied, MLP encoders, transcoders between
        sites of different width) or nothing fired.
    """
    shapes = {name: jnp.shape(params[name]) for name in ("encoder", "decoder") if name in params}
    if len(shapes) < 2 or shapes["encoder"] != shapes["decoder"]:
        return None
    cosine = np.asarray(encoder_decoder_cosine(params["encoder"], params["decoder"]))
    kept = cosine if fired is None else cosine[np.asarray(fired) > 0]
    return float(kept.mean()) if len(kept) else None
