"""Choosing which latents are active, and computing with only those.

Nothing of shape (batch, width) outlives the choice: on a CPU the scores are made and searched a few
rows at a time, and the backward pass needs none of them.

Where latents are split over n devices (`shards`), each device finds the k largest of its own, all
devices exchange these n * k candidates, values and places, and each takes the k largest of them.
Candidates lie in the order of the latents, and of equal ones the first is taken, at both stages:
the result is that of one device, ties included, and nothing of the size of the scores is sent.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, Int

from jaxinterp import selection
from jaxinterp.dictionaries.base import Codes
from jaxinterp.dictionaries.shards import Split, ambient_split
from jaxinterp.dictionaries.sparse_products import gather_dot, gather_sum
from jaxinterp.grouped_selection import top_k
from jaxinterp.row_blocks import map_row_blocks
from jaxinterp.selection import ascending_places, halving_pays, largest_places

_CACHED = 2**19  # scores that the cores of a CPU share without going to memory
_ROWS = 128  # at least, for a fast product


def largest(scores: Float[Array, "batch width"], k: int) -> Codes:
    """The k largest scores of each row, with their places."""
    split = ambient_split(*scores.shape)
    if split is None:
        if not halving_pays(scores.shape[1], k):
            return Codes(*top_k(scores, k))
        return jax.lax.platform_dependent(
            scores,
            cpu=functools.partial(_halved, k=k),
            default=lambda scores: Codes(*top_k(scores, k)),
        )

    def on_device(scores: Array) -> Codes:
        own = scores.shape[1]
        return _best_of_all(largest(scores, min(k, own)), k, own, split)

    return split.run(on_device, (scores,), (split.by_both(),), split.by_row())


def _halved(scores: Float[Array, "batch width"], *, k: int) -> Codes:
    indices = largest_places(scores, k)
    values = jnp.take_along_axis(scores, indices, axis=1)
    # NaN first, as `lax.top_k` has it.
    order = ascending_places(jnp.where(jnp.isnan(values), -jnp.inf, -values))
    return Codes(*(jnp.take_along_axis(a, order, axis=1) for a in (values, indices)))


def _best_of_all(mine: Codes, k: int, own: int, split: Split) -> Codes:
    """The k largest of what every device found among its `own` latents."""
    if split.latents is None:
        return mine
    named = Codes(mine.values, mine.indices + split.first(own))
    every = jax.lax.all_gather(named, split.latents, axis=1, tiled=True)
    values, places = largest(every.values, k)
    return Codes(values, jnp.take_along_axis(every.indices, places, 1))


def among_largest(mine: Codes, k: int, split: Split) -> Bool[Array, "n kept"]:
    """Which of this device's largest scores are among the k largest of all, inside `Split.run`.

    No candidates are exchanged, only how many scores reach a trial value, which a search over the
    bits of the k-th largest score asks for: 33 numbers a row, whatever k. Ties as in `largest`.

    Args:
        mine: the k largest scores of each row of this device's latents, or all where they are
            fewer.
        k: scores to keep of those of all devices.
        split: how latents lie.
    """
    bits = jax.lax.bitcast_convert_type(mine.values.astype(jnp.float32), jnp.int32)
    order = jnp.where(bits < 0, bits ^ jnp.iinfo(jnp.int32).max, bits)  # as the floats

    def count(mask: Array) -> Array:
        return mask.sum(1, dtype=jnp.int32)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # the k-th largest is in low .. high
        middle = (low & high) + ((low ^ high) >> 1) + ((low ^ high) & 1)  # rounded up
        enough = split.add_latents(count(order >= middle[:, None])) >= k
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    limits = jnp.iinfo(jnp.int32)
    rows = len(order)
    start = (jnp.full(rows, limits.min), jnp.full(rows, limits.max))
    least, _ = jax.lax.fori_loop(0, 32, halve, start)
    above, equal = count(order > least[:, None]), count(order == least[:, None])
    left = k - split.add_latents(above)
    if split.latents is not None:
        every = jax.lax.all_gather(equal, split.latents)
        before = jnp.arange(len(every))[:, None] < jax.lax.axis_index(split.latents)
        left = left - jnp.where(before, every, 0).sum(0)
    kept = above + jnp.clip(left, 0, equal)
    return jnp.arange(order.shape[1])[None] < kept[:, None]


def count_true(mask: Bool[Array, "n width"], axis: int) -> Int[Array, " m"]:
    """`selection.count_true`, also of a mask that is split over devices."""
    split = ambient_split(*mask.shape)
    if split is None:
        return selection.count_true(mask, axis)
    add, lies = (split.add_latents, split.by_row()) if axis else (split.add_rows, split.by_latent())

    def on_device(own: Array) -> Array:
        return add(selection.count_true(own, axis))

    return split.run(on_device, (mask,), (split.by_both(),), lies)


def selected_scores(
    x: Float[Array, "batch d"],
    encoder: Float[Array, "width d"],
    bias: Float[Array, " width"],
    indices: Int[Array, "batch k"],
) -> Float[Array, "batch k"]:
    """`x . encoder[i] + bias[i]` for the chosen latents i of each row."""
    return gather_dot(x, encoder, indices) + bias[indices]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def top_k_scores(
    x: Float[Array, "batch d"],
    encoder: Float[Array, "width d"],
    bias: Float[Array, " width"],
    k: int,
) -> Codes:
    """The k largest of `x @ encoder.T + bias` in each row; gradients touch only those k.

    Args:
        x: rows to encode.
        encoder: one row per latent.
        bias: per latent.
        k: latents to keep.

    Returns:
        The kept scores, largest first, and their indices.
    """
    split = ambient_split(len(x), len(encoder))
    if split is None:
        return largest_of_product(x, encoder, bias, k)

    def on_device(x: Array, encoder: Array, bias: Array) -> Codes:
        own = len(encoder)
        return _best_of_all(largest_of_product(x, encoder, bias, min(k, own)), k, own, split)

    rows, latents = split.by_row(), split.by_latent()
    return split.run(on_device, (x, encoder, bias), (rows, latents, latents), rows)


def largest_of_product(
    x: Float[Array, "batch d"],
    encoder: Float[Array, "width d"],
    bias: Float[Array, " width"],
    k: int,
    strength: Callable[..., Array] = lambda scores: scores,
    *latents: Array,
) -> Codes:
    """The k largest of `strength(x @ encoder.T + bias)` in each row, of one device's latents.

    Args:
        x: rows to encode.
        encoder: one row per latent.
        bias: per latent.
        k: latents to keep.
        strength: `(scores, *latents) -> numbers` that scores of some rows are ranked by; closed
            over no array.
        *latents: arrays (width) for it.
    """

    def whole(x: Array, encoder: Array, bias: Array, *latents: Array) -> Codes:
        return largest(strength(x @ encoder.T + bias[None], *latents), k)

    @sequential_vmap  # so that the blocks of one member of a sweep fill the cache
    def blocked(x: Array, encoder: Array, bias: Array, *latents: Array) -> Codes:
        block = max(_ROWS, _CACHED // encoder.shape[0])
        return map_row_blocks(lambda x: whole(x, encoder, bias, *latents), (x,), block)

    return jax.lax.platform_dependent(x, encoder, bias, *latents, cpu=blocked, default=whole)


def _top_k_forward(x: Array, encoder: Array, bias: Array, k: int) -> tuple[Codes, tuple]:
    codes = top_k_scores(x, encoder, bias, k)
    return codes, (x, encoder, bias, codes.indices)


def _top_k_backward(k: int, residuals: tuple, cotangent: Codes) -> tuple[Array, Array, Array]:
    x, encoder, bias, indices = residuals
    _, pullback = jax.vjp(lambda x, e, b: selected_scores(x, e, b, indices), x, encoder, bias)
    return pullback(cotangent.values)


top_k_scores.defvjp(_top_k_forward, _top_k_backward)


def decode_sparse(codes: Codes, atoms: Float[Array, "width d"]) -> Float[Array, "... d"]:
    """`sum_k values[k] * atoms[indices[k]]`: reads k rows of the dictionary per input."""
    values, indices = (a.reshape(-1, a.shape[-1]) for a in codes)
    rows = gather_sum(values, atoms, indices)
    return rows.reshape(*codes.values.shape[:-1], atoms.shape[1])
