"""What the rows of a decoder may be, and where a dictionary starts."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries.base import tangent_rows, unit_rows
from jaxinterp.dictionaries.scores import Scores

Params = dict[str, Array]


class Atoms(NamedTuple):
    """A constraint on the parameter `decoder` (width, d), one atom a row.

    Atoms that are made from other parameters (`archetypal`, `polynomial`) are made in `project`,
    and `tangent` hands the gradient on to what they are made from: everybody else reads `decoder`.

    Attributes:
        init: `(key, width, points) -> params`: `decoder`, and what it is made from, given some
            activations (n, d) around the decoder's bias.
        project: `params -> params`, back onto the constraint after a step.
        tangent: `(params, gradient) -> gradient`, the part that stays on it.
    """

    init: Callable[[Key[Array, ""], int, Array], Params]
    project: Callable[[Params], Params]
    tangent: Callable[[Params, Params], Params]


def unit() -> Atoms:
    """Rows of length one, at first in uniformly random directions."""

    def init(key: Key[Array, ""], width: int, points: Array) -> Params:
        return {"decoder": unit_rows(jax.random.normal(key, (width, points.shape[1])))}

    def project(params: Params) -> Params:
        return params | {"decoder": unit_rows(params["decoder"])}

    def tangent(params: Params, gradient: Params) -> Params:
        return gradient | {"decoder": tangent_rows(params["decoder"], gradient["decoder"])}

    return Atoms(init, project, tangent)


def free(norm: float = 0.1) -> Atoms:
    """Rows of any length, at first of length `norm` in random directions.

    The penalty of a variant with free atoms must weigh codes by the atoms' lengths, or it is
    escaped by long atoms and small codes.
    """

    def init(key: Key[Array, ""], width: int, points: Array) -> Params:
        rows = jax.random.uniform(key, (width, points.shape[1]), minval=-1.0, maxval=1.0)
        return {"decoder": norm * unit_rows(rows)}

    return Atoms(init, lambda params: params, lambda params, gradient: gradient)


def zero_centre(sample: Float[Array, "n d"]) -> Float[Array, " d"]:
    """A decoder bias that starts at the origin."""
    return jnp.zeros(sample.shape[1])


def mean_centre(sample: Float[Array, "n d"]) -> Float[Array, " d"]:
    """A decoder bias that starts at the mean of the sample."""
    return sample.mean(0, dtype=jnp.float32)


def start(
    key: Key[Array, ""],
    sample: Float[Array, "n d"],
    width: int,
    scores: Scores,
    atoms: Atoms,
    centre: Callable[[Array], Array],
) -> Params:
    """The parameters that every autoencoder has, before the first step.

    Args:
        key: for the atoms and the encoder.
        sample: activations that say where the data lies.
        width: number of latents.
        scores: the encoder.
        atoms: the kind of decoder.
        centre: first decoder bias, `zero_centre`, `mean_centre` or `geometric_median`.

    Returns:
        `decoder`, `decoder_bias` and what the encoder has.
    """
    first, second = jax.random.split(key)
    sample32 = sample.astype(jnp.float32)
    bias = centre(sample32)
    params = atoms.init(first, width, sample32 - bias[None]) | {"decoder_bias": bias}
    return params | scores.init(second, params, sample)
