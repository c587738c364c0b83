"""Scores and their k largest in one kernel: (batch, width) is never written to memory."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

Ref = Any  # memory that a kernel reads and writes

_LANES = 128  # of a TPU's vector registers


def encode_topk(
    x: Float[Array, "n d"],
    encoder: Float[Array, "width d"],
    bias: Float[Array, " width"],
    k: int,
    *,
    rows: int = 128,
    columns: int = 256,
    interpret: bool = False,
) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
    r"""The k largest of `x @ encoder.T + bias` in each row, as `sparsify.largest` gives them.

    A block of `rows` inputs stays in fast memory while the encoder passes by in blocks of
    `columns` latents. A block's scores are made in fast memory; those that beat the k-th best so
    far are moved, best first, into a sorted list of each row. As the list fills up with large
    scores fewer are moved: of random scores about $k / (\mathrm{blocks\ passed})$ in a block. Order
    and ties are those of `lax.top_k`: of equal scores the lower index comes first.

    Reads x once and the encoder n / `rows` times; fast memory holds two copies of
    (`rows` + `columns`) d numbers and 4 `rows` `columns` bytes of scores. Not differentiable: the
    gradient of the kept scores is `sparsify.top_k_scores`' business. Never timed on hardware.

    Args:
        x: rows to encode.
        encoder: one row per latent.
        bias: per latent.
        k: latents to keep.
        rows: inputs that are encoded together, a multiple of 8: 128 of float32 and 256 of bfloat16
            fit 16 MB at d = 4096.
        columns: latents in a block, a multiple of 128.
        interpret: run as ordinary operations, on any device, to be tested.

    Returns:
        The scores, largest first, and their indices. Scores must be finite: a NaN or minus
        infinity is never kept, and where fewer than k are left, the rest is (minus infinity, 0).

    Raises:
        ValueError: k outside 1 .. width, or blocks that do not fit the registers.
    """
    (count, d), width = x.shape, encoder.shape[0]
    if not 1 <= k <= width:
        raise ValueError(f"{k=} latents per row with {width=}: need 1 <= k <= width")
    if rows < 1 or rows % 8 or columns < 1 or columns % _LANES:
        raise ValueError(f"{rows=}, {columns=}: give multiples of 8 and of {_LANES}")
    kept = -(-k // _LANES) * _LANES
    of_rows = pl.BlockSpec((rows, kept), lambda i, _: (i, 0))
    values, indices = pl.pallas_call(
        partial(_kernel, k=k, width=width),
        grid=(-(-count // rows), -(-width // columns)),
        in_specs=[
            pl.BlockSpec((rows, d), lambda i, _: (i, 0)),
            pl.BlockSpec((columns, d), lambda _, j: (j, 0)),
            pl.BlockSpec((1, columns), lambda _, j: (0, j)),
        ],
        out_specs=[of_rows, of_rows],
        out_shape=[
            jax.ShapeDtypeStruct((count, kept), jnp.float32),
            jax.ShapeDtypeStruct((count, kept), jnp.int32),
        ],
        scratch_shapes=[pltpu.VMEM((rows, columns), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
    )(x, encoder, bias[None])
    return values[:, :k].astype(x.dtype), indices[:, :k]


def _kernel(
    x_ref: Ref,
    encoder_ref: Ref,
    bias_ref: Ref,
    values_ref: Ref,
    indices_ref: Ref,
    scores_ref: Ref,
    *,
    k: int,
    width: int,
) -> None:
    """Merges the scores of one block of latents into the lists of one block of rows."""
    block = pl.program_id(1)

    @pl.when(block == 0)
    def _() -> None:
        values_ref[...] = jnp.full(values_ref.shape, -jnp.inf, values_ref.dtype)
        indices_ref[...] = jnp.zeros(indices_ref.shape, indices_ref.dtype)

    columns = scores_ref.shape[1]
    place = jax.lax.broadcasted_iota(jnp.int32, scores_ref.shape, 1)
    rank = jax.lax.broadcasted_iota(jnp.int32, values_ref.shape, 1)
    across = (((1,), (1,)), ((), ()))
    scores = jax.lax.dot_general(
        x_ref[...], encoder_ref[...], across, preferred_element_type=jnp.float32
    )
    scores = scores + bias_ref[...].astype(jnp.float32)
    # What lies behind the last latent is not defined.
    scores_ref[...] = jnp.where(block * columns + place < width, scores, -jnp.inf)

    def better() -> Array:
        """Whether any row has a score left that belongs into its list."""
        best = jnp.max(scores_ref[...], axis=1, keepdims=True)
        return jnp.max((best > values_ref[:, k - 1 : k]).astype(jnp.int32))

    def insert(_: Array) -> Array:
        scores, held = scores_ref[...], values_ref[...]
        best = jnp.max(scores, axis=1, keepdims=True)
        first = jnp.min(jnp.where(scores == best, place, columns), axis=1, keepdims=True)
        scores_ref[...] = jnp.where(place == first, -jnp.inf, scores)
        # Behind its equals, which have lower indices; a row that is done puts it behind its list.
        stay = held >= best
        here = rank == jnp.sum(stay.astype(jnp.int32), 1, keepdims=True)
        moved = pltpu.roll(held, 1, 1), pltpu.roll(indices_ref[...], 1, 1)
        values_ref[...] = jnp.where(stay, held, jnp.where(here, best, moved[0]))
        new = jnp.where(here, block * columns + first, moved[1])
        indices_ref[...] = jnp.where(stay, indices_ref[...], new)
        return better()

    jax.lax.while_loop(lambda left: left > 0, insert, better())
