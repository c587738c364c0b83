"""Setting latents of a dictionary, and what that does to whatever comes after it."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jaxinterp.dictionaries.base import Codes, Dictionary, WithRest


class Effect(NamedTuple):
    """What an edit does to the output of a function.

    Attributes:
        predicted: the first-order change, which the derivative at the unedited input gives.
        actual: the change.
    """

    predicted: Float[Array, "..."]
    actual: Float[Array, "..."]


def set_latents(
    dictionary: Dictionary,
    params: Any,
    x: Float[Array, "... d"],
    latents: Int[Array, " m"],
    values: Float[Array, " m"] | float = 0.0,
) -> Float[Array, "... d"]:
    r"""Activations with some latents at given values and everything else as it was.

    $x' = x + \mathrm{decode}(z') - \mathrm{decode}(z)$: what the dictionary does not explain stays
    in, so that latents set to the values that they have change nothing. It holds for any decoder.

    Args:
        dictionary: any variant.
        params: its parameters.
        x: activations.
        latents: which latents, each at most once; may be traced.
        values: what each is set to; 0 ablates them.

    Returns:
        The edited activations.

    Raises:
        ValueError: a latent that the dictionary does not have, or one twice (not seen in traced
            numbers, which then mean nothing).
    """
    latents = jnp.asarray(latents)
    _check_latents(latents, dictionary.width)
    codes = dictionary.encode(params, x)
    edited = _set(codes, latents, jnp.asarray(values))
    return x + dictionary.decode(params, edited) - dictionary.decode(params, codes)


def _check_latents(latents: Array, width: int) -> None:
    if isinstance(latents, Tracer):
        return
    numbers = np.asarray(latents).ravel().tolist()
    strange = [n for n in numbers if not 0 <= n < width]
    if strange:
        raise ValueError(f"latents {strange}: this dictionary has 0..{width - 1}")
    twice = sorted(n for n, count in Counter(numbers).items() if count > 1)
    if twice:
        raise ValueError(f"latents {twice} are given more than once")


def effect(
    output: Callable[[Array], Array], x: Float[Array, "..."], edited: Float[Array, "..."]
) -> Effect:
    r"""How an edit of activations changes an output, as predicted by a line and in truth.

    Predicted: $\mathrm{D}f(x)\,[x' - x]$, one forward derivative; exact where f is affine between
    the two. Actual: $f(x') - f(x)$.

    Args:
        output: the rest of the model, a pure function of the activations.
        x: activations.
        edited: what they become.
    """
    before, predicted = jax.jvp(output, (x,), (edited - x,))
    return Effect(predicted, output(edited) - before)


def _set(codes: Any, latents: Array, values: Array) -> Any:
    if isinstance(codes, WithRest):
        return codes._replace(codes=_set(codes.codes, latents, values))
    values = jnp.broadcast_to(values, latents.shape).astype(jax.tree.leaves(codes)[0].dtype)
    if not isinstance(codes, Codes):
        return codes.at[..., latents].set(values)
    # The kept latents lose the chosen ones, which follow as entries of their own.
    lead = codes.values.shape[:-1]
    values, latents = (
        jnp.broadcast_to(a.reshape(*(1,) * len(lead), -1), (*lead, a.size))
        for a in (values, latents.astype(codes.indices.dtype))
    )
    chosen = (codes.indices[..., None] == latents[..., None, :]).any(-1)
    kept = jnp.where(chosen, 0.0, codes.values)
    return Codes(jnp.concatenate([kept, values], -1), jnp.concatenate([codes.indices, latents], -1))
