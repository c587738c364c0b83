r"""Concepts that a generative model hides or overdoes, seen through one dictionary.

Real inputs and generated ones, in pairs (the same prompt, the same class), are encoded by the same
dictionary; a latent that is active on one side and silent on the other is a blind spot.

    found = blindspots(encode(real), encode(generated), dictionary.width)
    np.flatnonzero(found.skew < 0.1), np.flatnonzero(found.skew > 0.9)   # suppressed, exaggerated
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.dictionaries.base import Codes, WithRest, latents
from jaxinterp.dictionaries.matching import merge_repeats


class Blindspots(NamedTuple):
    """What differs between the two sides.

    Attributes:
        skew: of each latent, in 0 .. 1: above one half where it is more active on the generated
            side, below where it is less.
        distance: between the codes of each pair; near 0 for a generated input that repeats the real
            one.
    """

    skew: Float[Array, " width"]
    distance: Float[Array, " pairs"]


def blindspots(
    real: Codes | WithRest | Float[Array, "pairs width"],
    generated: Codes | WithRest | Float[Array, "_ width"],
    width: int,
) -> Blindspots:
    r"""Compares the codes of paired inputs.

    $\delta_j = \sigma(\mathrm{E}\, z_j^{\mathrm{generated}} - \mathrm{E}\, z_j^{\mathrm{real}})$,
    codes in units of the activations: normalise these first. And $\lVert z^{\mathrm{generated}} -
    z^{\mathrm{real}} \rVert$ of each pair.

    Args:
        real: codes, in either form.
        generated: codes of the partners, in the same form and order.
        width: number of latents.

    Raises:
        ValueError: no pairs, or sides of different length.

    Reference:
        "Conceptual blindspots", arXiv 2506.19708, of which a summary was read. It also has a form
        of $\delta$ with the opposite sign.
    """
    sides = latents(real), latents(generated)
    counts = [len(jax.tree.leaves(side)[0]) for side in sides]
    if not counts[0] or counts[0] != counts[1]:
        raise ValueError(f"{counts[0]} real and {counts[1]} generated rows: need pairs of them")
    before, after = sides
    if isinstance(before, Codes) and isinstance(after, Codes):
        values = jnp.concatenate([-before.values, after.values], 1)
        both = merge_repeats(Codes(values, jnp.concatenate([before.indices, after.indices], 1)))
        total = jnp.zeros(width).at[both.indices].add(both.values)
        squares = jnp.square(both.values).sum(1)
    else:
        change = jnp.asarray(after) - jnp.asarray(before)
        total, squares = change.sum(0), jnp.square(change).sum(1)
    return Blindspots(jax.nn.sigmoid(total / counts[0]), jnp.sqrt(squares))
