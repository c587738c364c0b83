"""Reading k atoms per row straight from the dictionary's place in slow memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

Ref = Any  # memory that a kernel reads and writes


def sparse_decode(
    values: Float[Array, "n k"],
    atoms: Float[Array, "width d"],
    indices: Int[Array, "n k"],
    *,
    rows: int = 8,
    chunk: int = 32,
    interpret: bool = False,
) -> Float[Array, "n d"]:
    """`sum_k values[n, k] * atoms[indices[n, k]]`, as `sparse_products.gather_sum`.

    The dictionary stays where it is. Each atom that a row uses is copied to fast memory on its own,
    `chunk` copies at a time, while the atoms before them are multiplied: (n, k, d) is never
    written. Sums in float32. Not differentiable: `gather_sum` states the gradient, whose parts
    are of the same kind. Never timed on hardware.

    Args:
        values: weight of each atom.
        atoms: one row per latent, float32: a TPU copies rows of narrower types in pairs only.
        indices: which atoms; must lie in 0 .. width - 1.
        rows: rows of the result that are computed together, a multiple of 8.
        chunk: copies under way together; fast memory holds 2 `chunk` d numbers.
        interpret: run as ordinary operations, on any device, to be tested.

    Returns:
        The sums.

    Raises:
        ValueError: atoms that are not float32, or a block that does not fit the registers.
    """
    (count, k), d = values.shape, atoms.shape[1]
    if atoms.dtype != jnp.float32:
        raise ValueError(f"atoms are {atoms.dtype}: this kernel copies rows of float32 only")
    if rows < 1 or rows % 8 or chunk < 1:
        raise ValueError(f"{rows=}, {chunk=}: give a multiple of 8, and at least 1")
    # Rows and weights that are not there count nothing, and their copies of atom 0 harm nobody.
    missing = ((0, -count % rows), (0, -k % chunk))
    values, indices = jnp.pad(values, missing), jnp.pad(indices.astype(jnp.int32), missing)
    chunks = values.shape[1] // chunk
    weights = values.astype(jnp.float32).reshape(-1, chunks, 1, chunk)
    result = pl.pallas_call(
        _kernel,
        grid=(values.shape[0] // rows,),
        in_specs=[
            pl.BlockSpec((rows, chunks * chunk), lambda i: (i, 0), memory_space=pltpu.SMEM),
            pl.BlockSpec((rows, chunks, 1, chunk), lambda i: (i, 0, 0, 0)),
            pl.BlockSpec(memory_space=pl.ANY),
        ],
        out_specs=pl.BlockSpec((rows, d), lambda i: (i, 0)),
        out_shape=jax.ShapeDtypeStruct((values.shape[0], d), jnp.float32),
        scratch_shapes=[
            pltpu.VMEM((2, chunk, d), jnp.float32),
            pltpu.SemaphoreType.DMA((2,)),
        ],
        interpret=interpret,
    )(indices, weights, atoms)
    return result[:count]


def _kernel(
    indices_ref: Ref,
    weights_ref: Ref,
    atoms_ref: Ref,
    out_ref: Ref,
    held_ref: Ref,
    arrived_ref: Ref,
) -> None:
    """One block of rows: a unit of work is one chunk of one row, fetched one unit ahead."""
    rows, chunks, _, chunk = weights_ref.shape
    units = rows * chunks

    def place(unit: Array) -> tuple[Array, Array]:
        """Row and chunk of a unit. Not `//`: its sign rule asks for the kind of the device."""
        return jax.lax.div(unit, jnp.int32(chunks)), jax.lax.rem(unit, jnp.int32(chunks))

    def copies(unit: Array, act: str) -> None:
        (row, part), slot = place(unit), jax.lax.rem(unit, jnp.int32(2))

        def one(j: Array, _: None) -> None:
            source = atoms_ref.at[pl.ds(indices_ref[row, part * chunk + j], 1)]
            target = held_ref.at[slot, pl.ds(j, 1)]
            copy = pltpu.make_async_copy(source, target, arrived_ref.at[slot])
            getattr(copy, act)()

        jax.lax.fori_loop(0, chunk, one, None)

    out_ref[...] = jnp.zeros(out_ref.shape, out_ref.dtype)
    copies(jnp.int32(0), "start")

    def work(unit: Array, _: None) -> None:
        @pl.when(unit + 1 < units)
        def _() -> None:
            copies(unit + 1, "start")

        copies(unit, "wait")
        row, part = place(unit)
        total = jnp.dot(
            weights_ref[row, part],
            held_ref[jax.lax.rem(unit, jnp.int32(2))],
            precision="highest",
            preferred_element_type=jnp.float32,
        )
        out_ref[pl.ds(row, 1), :] = out_ref[pl.ds(row, 1), :] + total

    jax.lax.fori_loop(0, units, work, None)
