"""GroupMax sparse autoencoder: the latents form k groups, the strongest of each is active."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxinterp.dictionaries.base import Codes, Dictionary
from jaxinterp.dictionaries.fixed_k import check_k, fixed_k, rectified
from jaxinterp.dictionaries.sparsify import selected_scores


def group_max(width: int, k: int, **parts: Any) -> Dictionary:
    """A sparse autoencoder with one winner in each of k groups of neighbouring latents.

    Group g holds latents g * width/k .. (g + 1) * width/k - 1. The selection is one pass without
    any sort, and no two latents of a group are ever active together. Loss as `topk`. On a mesh, let
    the axis `model` divide k, so that no group is cut: else the scores of all latents are gathered.

    Args:
        width: number of latents, a multiple of k.
        k: groups.
        **parts: the keywords of `fixed_k.fixed_k`.

    Returns:
        The dictionary; its codes stand in the order of the groups, not of their values.

    Raises:
        ValueError: k outside 1 .. width, or not a divisor of the width.

    Reference:
        The `groupmax` activation of EleutherAI's sparsify, which gives a gradient also to winners
        that the ReLU made zero; here they have none.
    """
    check_k(k, width)
    if width % k:
        raise ValueError(f"{width=} is not a multiple of the {k=} groups")

    def select(rows: Array, matrix: Array, bias: Array) -> Codes:
        scores = jax.lax.stop_gradient(rows @ matrix.T + bias[None])
        winner = scores.reshape(-1, k, width // k).argmax(-1)
        indices = winner + (jnp.arange(k) * (width // k))[None]
        return rectified(Codes(selected_scores(rows, matrix, bias, indices), indices))

    return fixed_k(width, select, **parts)
