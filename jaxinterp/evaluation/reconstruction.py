"""How well a dictionary reconstructs activations, and which latents it uses."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinterp.dictionaries.base import Codes, Dictionary


class Reconstruction(NamedTuple):
    """Sums over rows; addable, so batches and processes merge exactly.

    Attributes:
        rows: number of rows.
        error: sum of squared reconstruction errors.
        total: sum of squared entries, per dimension.
        mean: sum of entries, per dimension.
        fired: rows on which each latent is active.
        mass: sum of each latent's activations.
        energy: sum of each latent's squared activations.
        peak: largest activation of each latent.
    """

    rows: np.ndarray
    error: np.ndarray
    total: np.ndarray
    mean: np.ndarray
    fired: np.ndarray
    mass: np.ndarray
    energy: np.ndarray
    peak: np.ndarray

    def variance_explained(self) -> float:
        """One minus the squared error over the squared distance from the per-dimension mean."""
        spread = self.total - self.mean**2 / self.rows
        return float(1 - self.error / spread.sum())

    def l0(self) -> float:
        """Mean number of active latents per row."""
        return float(self.fired.sum() / self.rows)

    def dead(self) -> float:
        """Share of latents that were active on no row."""
        return float((self.fired == 0).mean())


def measure(
    dictionary: Dictionary, params: object, batches: Iterable[Float[np.ndarray, "_ d"]]
) -> Reconstruction:
    """Runs a dictionary with sparse codes over batches of activations.

    Args:
        dictionary: a variant whose codes are `Codes`.
        params: its parameters.
        batches: rows; batches of equal size compile once.

    Returns:
        The sums, accumulated in float64 over batches.

    Raises:
        ValueError: no rows.
    """

    @jax.jit
    def sums(params: object, x: Array) -> tuple[Array, ...]:
        codes: Codes = dictionary.encode(params, x)
        error = jnp.square(x - dictionary.decode(params, codes)).sum()
        zeros = jnp.zeros(dictionary.width)
        values, where = codes.values, codes.indices
        fired = zeros.at[where].add(jnp.where(values > 0, 1.0, 0.0))
        mass, energy = zeros.at[where].add(values), zeros.at[where].add(jnp.square(values))
        peak = zeros.at[where].max(values)
        return error, jnp.square(x).sum(0), x.sum(0), fired, mass, energy, peak

    total: Reconstruction | None = None
    for x in batches:
        if not len(x):
            continue
        wide = [np.asarray(v, np.float64) for v in sums(params, jnp.asarray(x))]
        part = Reconstruction(np.asarray(len(x), np.float64), *wide)
        total = part if total is None else merge(total, part)
    if total is None:
        raise ValueError("no activation rows to measure on: harvest some held-out tokens")
    return total


def merge(a: Reconstruction, b: Reconstruction) -> Reconstruction:
    """The sums over the rows of both."""
    *sums_a, peak_a = a
    *sums_b, peak_b = b
    return Reconstruction(
        *(x + y for x, y in zip(sums_a, sums_b, strict=True)), np.maximum(peak_a, peak_b)
    )
