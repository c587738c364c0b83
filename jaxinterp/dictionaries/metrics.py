"""How good a dictionary is, as sums that training and offline measurement share.

In a training step, on the batch's own arrays (all jnp, jits, differentiates, vmaps):

    metrics = fit(target, reconstruction).metrics() | usage(codes, width).metrics()

Offline, part by part, in float64, over any number of rows:

    total = merge(total, part)           # parts: `Fit` or `Usage`, from `to_host(fit(...))`
    total.metrics()                      # the same names, the same definitions

The sums are kept around the mean of their rows and merged by Chan's formula, so a value over
chunks is the value over all rows at once, whatever the mean. Means are over rows (tokens), sums
of squares over all entries of a row: (b, d), or (b, sites, d) flattened.

Where a variant's codes depend on the batch while it trains (batch top-k), give the codes of
`encode` for figures that are to agree with offline ones.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinterp.dictionaries.base import Codes, WithRest, latents
from jaxinterp.dictionaries.sparsify import count_true

Number = Float[Array | np.ndarray, ""]
Vector = Float[Array | np.ndarray, " n"]
_TINY = 1e-30


class Fit(NamedTuple):
    """Sums over rows of a target y and its reconstruction y_hat.

    Attributes:
        rows: number of rows n.
        mean: mean of y, per entry.
        scatter: sum of (y - mean)^2, per entry.
        error: sum of (y - y_hat)^2, per entry.
        hat_mean: mean of y_hat, per entry.
        hat_scatter: sum of |y_hat - hat_mean|^2.
        cross: sum of <y - mean, y_hat - hat_mean>.
        cosine: sum over rows of the cosine of y and y_hat.
        length_ratio: sum over rows of |y_hat| / |y|, those with y = 0 left out.
        with_length: number of rows with another y.
    """

    rows: Number
    mean: Float[Array | np.ndarray, " d"]
    scatter: Float[Array | np.ndarray, " d"]
    error: Float[Array | np.ndarray, " d"]
    hat_mean: Float[Array | np.ndarray, " d"]
    hat_scatter: Number
    cross: Number
    cosine: Number
    length_ratio: Number
    with_length: Number

    def variance_explained(self) -> Any:
        r"""$1 - \sum \lVert y - \hat y \rVert^2 / \sum \lVert y - \bar y \rVert^2$."""
        return 1 - self.error.sum() / (self.scatter.sum() + _TINY)

    def squared_error(self) -> Any:
        r"""$\mathrm{E}\lVert y - \hat y \rVert^2$, in squared units of y."""
        return self.error.sum() / self.rows

    def mean_cosine(self) -> Any:
        """Mean over rows of the cosine of y and its reconstruction (not centred)."""
        return self.cosine / self.rows

    def norm_ratio(self) -> Any:
        r"""$\mathrm{E}[\lVert \hat y \rVert / \lVert y \rVert]$; under 1 also without any bias.

        The mean is over the rows whose y is not zero; it is 0 where there are none.
        """
        return self.length_ratio / (self.with_length + (self.with_length == 0))

    def relative_reconstruction_bias(self) -> Any:
        r"""$\gamma = \mathrm{E}\lVert \hat y \rVert^2 / \mathrm{E}\langle y, \hat y \rangle$.

        $\hat y / \gamma$ is the best rescaled reconstruction: under 1 the dictionary shrinks.

        Reference:
            Rajamanoharan et al. (2024), "Improving dictionary learning with gated sparse
            autoencoders", arXiv 2404.16014, equation 10.
        """
        square = self.hat_scatter + self.rows * (self.hat_mean**2).sum()
        along = self.cross + self.rows * (self.mean * self.hat_mean).sum()
        return square / (along + _TINY)

    def shrinkage(self) -> Any:
        r"""$1 - \gamma$ around the mean of y: how much too short deviations from it come back.

        $1 - \mathrm{E}\lVert \hat y - \bar y \rVert^2 / \mathrm{E}\langle y - \bar y, \hat y -
        \bar y \rangle$. A reconstruction $\bar y + 0.8 (y - \bar y)$ has 0.2; one that merely
        misses some directions has 0. A large mean hides this from $\gamma$ itself.
        """
        square = self.hat_scatter + self.rows * ((self.hat_mean - self.mean) ** 2).sum()
        return 1 - square / (self.cross + _TINY)

    def metrics(self) -> dict[str, Any]:
        """All of the above by name."""
        return {
            "variance_explained": self.variance_explained(),
            "squared_error": self.squared_error(),
            "cosine": self.mean_cosine(),
            "norm_ratio": self.norm_ratio(),
            "relative_reconstruction_bias": self.relative_reconstruction_bias(),
            "shrinkage": self.shrinkage(),
        }


class Usage(NamedTuple):
    """Sums over rows of the codes, per latent; a latent is active where its code is not zero.

    Attributes:
        rows: number of rows.
        fired: rows on which each latent is active.
        mass: sum of each latent's activations.
        energy: sum of each latent's squared activations.
        peak: largest activation of each latent, at least zero.
    """

    rows: Number
    fired: Vector
    mass: Vector
    energy: Vector
    peak: Vector

    def frequency(self) -> Any:
        """Share of the rows on which each latent is active."""
        return self.fired / self.rows

    def l0(self) -> Any:
        """Mean number of active latents per row."""
        return self.fired.sum() / self.rows

    def l1(self) -> Any:
        """Mean sum of a row's activations."""
        return self.mass.sum() / self.rows

    def dead(self) -> Any:
        """Share of latents that are active on none of the rows."""
        return (self.fired == 0).mean()

    def dense(self, *, above: float = 0.1) -> Any:
        """Share of latents active on more than a share `above` of the rows."""
        return (self.frequency() > above).mean()

    def metrics(self) -> dict[str, Any]:
        """All of the above by name, but the frequencies."""
        return {"l0": self.l0(), "l1": self.l1(), "dead": self.dead(), "dense": self.dense()}


def fit(target: Float[Array, "n ..."], reconstruction: Float[Array, "n ..."]) -> Fit:
    """The sums of one batch, in float32 or wider, centred before anything is squared.

    Args:
        target: what was to be reconstructed, rows first.
        reconstruction: of the same shape.

    Returns:
        The sums, on the device.
    """
    wide = jnp.promote_types(target.dtype, jnp.float32)
    y = target.reshape(len(target), -1).astype(wide)
    y_hat = reconstruction.reshape(len(target), -1).astype(wide)
    mean, hat_mean = y.mean(0), y_hat.mean(0)
    centred, hat_centred = y - mean[None], y_hat - hat_mean[None]
    length, hat_length = (jnp.sqrt((a * a).sum(1)) for a in (y, y_hat))
    return Fit(
        rows=jnp.asarray(len(y), wide),
        mean=mean,
        scatter=(centred**2).sum(0),
        error=((y - y_hat) ** 2).sum(0),
        hat_mean=hat_mean,
        hat_scatter=(hat_centred**2).sum(),
        cross=(centred * hat_centred).sum(),
        cosine=((y * y_hat).sum(1) / (length * hat_length + _TINY)).sum(),
        length_ratio=jnp.where(length > 0, hat_length / jnp.where(length > 0, length, 1), 0).sum(),
        with_length=(length > 0).sum().astype(wide),
    )


def usage(codes: Codes | WithRest | Float[Array, "... width"], width: int) -> Usage:
    """The sums of one batch of codes; of sparse codes nothing of shape (batch, width) is made.

    Args:
        codes: `Codes`, dense codes, or either with a rest, which is left out.
        width: number of latents.

    Returns:
        The sums, on the device.
    """
    codes = latents(codes)
    if not isinstance(codes, Codes):
        z = codes.reshape(-1, width).astype(jnp.float32)
        rows = jnp.asarray(len(z), jnp.float32)
        fired = count_true(z != 0, 0).astype(jnp.float32)
        return Usage(rows, fired, z.sum(0), (z * z).sum(0), jnp.maximum(z.max(0), 0.0))
    where, zeros = codes.indices.ravel(), jnp.zeros(width)
    values = codes.values.ravel().astype(jnp.float32)
    return Usage(
        rows=jnp.asarray(where.size // codes.indices.shape[-1], jnp.float32),
        fired=zeros.at[where].add(jnp.where(values != 0, 1.0, 0.0)),
        mass=zeros.at[where].add(values),
        energy=zeros.at[where].add(values * values),
        peak=zeros.at[where].max(values),
    )


def merge_fits(a: Fit, b: Fit) -> Fit:
    """The sums over the rows of both."""
    rows = a.rows + b.rows
    share, weight = b.rows / rows, a.rows * b.rows / rows
    apart, hat_apart = b.mean - a.mean, b.hat_mean - a.hat_mean
    return Fit(
        rows,
        a.mean + apart * share,
        a.scatter + b.scatter + weight * apart**2,
        a.error + b.error,
        a.hat_mean + hat_apart * share,
        a.hat_scatter + b.hat_scatter + weight * (hat_apart**2).sum(),
        a.cross + b.cross + weight * (apart * hat_apart).sum(),
        a.cosine + b.cosine,
        a.length_ratio + b.length_ratio,
        a.with_length + b.with_length,
    )


def merge_usages(a: Usage, b: Usage) -> Usage:
    """The sums over the rows of both."""
    *sums_a, peak_a = a
    *sums_b, peak_b = b
    larger = jnp.maximum if isinstance(peak_a, jax.Array) else np.maximum
    return Usage(*(x + y for x, y in zip(sums_a, sums_b, strict=True)), larger(peak_a, peak_b))


def to_host(sums: Any) -> Any:
    """The same sums as NumPy float64, to be accumulated over many batches."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64), sums)


def frequency_histogram(
    frequency: Float[Array | np.ndarray, " width"], *, bins: int = 24, least: float = 1e-6
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " edges"], float]:
    """How often latents fire, on a logarithmic scale.

    Args:
        frequency: share of rows on which each latent is active (`Usage.frequency`).
        bins: equal bins of log10 frequency.
        least: lower end of the first bin; rarer latents that do fire are counted in it.

    Returns:
        (latents in each bin, edges of the bins in log10, number of latents that never fired).
    """
    frequency = np.asarray(frequency, np.float64)
    alive = frequency[frequency > 0]
    edges = np.linspace(np.log10(least), 0.0, bins + 1)
    counts, _ = np.histogram(np.clip(np.log10(alive), edges[0], edges[-1]), edges)
    return counts.astype(np.float64), edges, float((frequency == 0).sum())


def encoder_decoder_cosine(
    encoder: Float[Array, "width ..."], decoder: Float[Array, "width ..."]
) -> Float[Array, " width"]:
    """Cosine of each latent's reading and writing direction; 0 where either is zero.

    Near 1 for a latent that reads what it writes; low ones read to tell apart what they do not
    write, or are dead. Meaningful only where both live in the same space.
    """
    e, d = (a.reshape(len(a), -1) for a in (encoder, decoder))
    lengths = jnp.sqrt((e * e).sum(1)) * jnp.sqrt((d * d).sum(1))
    return (e * d).sum(1) / jnp.where(lengths > 0, lengths, 1.0)
