"""From codes to reconstructions, for codes of either form."""

from collections.abc import Sequence
from itertools import accumulate

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxinterp.dictionaries.base import Codes
from jaxinterp.dictionaries.shards import ambient_split
from jaxinterp.dictionaries.sparse_products import gather_sum
from jaxinterp.dictionaries.sparsify import decode_sparse

Params = dict[str, Array]


def linear_decode(params: Params, codes: Codes | Array) -> Float[Array, "... d"]:
    """`codes @ decoder + decoder_bias`.

    Args:
        params: `decoder` (width, d) and `decoder_bias` (d).
        codes: dense (..., width), or the kept latents of each row.
    """
    atoms = params["decoder"]
    y = decode_sparse(codes, atoms) if isinstance(codes, Codes) else codes @ atoms
    return y + params["decoder_bias"].reshape((1,) * (y.ndim - 1) + (-1,))


def prefix_decode(
    params: Params, codes: Codes | Array, sizes: Sequence[int]
) -> Float[Array, "prefixes n d"]:
    """Reconstructions from the first `sizes[0]`, `sizes[1]`, ... latents, in one pass.

    The pieces between two sizes are decoded apart and summed up, and their gradients flow back
    through the same sums: what is common to two prefixes is computed once.

    Args:
        params: `decoder` (width, d) and `decoder_bias` (d).
        codes: dense (n, width), or the kept latents of each row.
        sizes: increasing, the last one the width.

    Returns:
        One reconstruction per prefix; the last is that of all latents.
    """
    atoms = params["decoder"]
    if isinstance(codes, Codes):
        piece = jnp.searchsorted(jnp.asarray(sizes), codes.indices, side="right")
        shares = [jnp.where(piece == g, codes.values, 0.0) for g in range(len(sizes))]
        pieces = [gather_sum(share, atoms, codes.indices) for share in shares]
    else:
        pieces = _dense_pieces(codes, atoms, tuple(sizes))
    # Written out: on a CPU a running sum along so short an axis may be one thread's work.
    return jnp.stack([part + params["decoder_bias"][None] for part in accumulate(pieces)])


def _dense_pieces(
    codes: Float[Array, "n width"], atoms: Float[Array, "width d"], sizes: tuple[int, ...]
) -> list[Float[Array, "n d"]]:
    """What the latents between two sizes write, each piece.

    Where latents are split over devices, a boundary lies at one place of one device's part. Every
    device cuts its part at the places of all boundaries: each slice then belongs to one piece,
    which it is on each device, and all latents are decoded once.
    """
    split = ambient_split(*codes.shape)
    if split is None or split.latents is None:
        return _sliced_products(codes, atoms, sizes)

    def on_device(codes: Array, atoms: Array) -> Array:
        own = len(atoms)
        cuts = sorted({size % own for size in sizes} - {0}) + [own]
        slices = jnp.stack(_sliced_products(codes, atoms, cuts))
        starts = split.first(own) + jnp.asarray([0, *cuts[:-1]])
        piece = jnp.searchsorted(jnp.asarray(sizes), starts, side="right")
        empty = jnp.zeros((len(sizes), *slices.shape[1:]), slices.dtype)
        return split.add_latents(empty.at[piece].add(slices))

    # Unlike `Split.run`, so that the sum over devices costs nothing on the way back.
    specs = (split.by_both(), split.by_latent())
    result = P(None, *split.by_row())
    return list(jax.shard_map(on_device, in_specs=specs, out_specs=result)(codes, atoms))


def _sliced_products(codes: Array, atoms: Array, ends: Sequence[int]) -> list[Array]:
    """Products of the slices that end at the given places."""
    spans = zip((0, *ends[:-1]), ends, strict=True)
    return [codes[:, a:b] @ atoms[a:b] for a, b in spans]
