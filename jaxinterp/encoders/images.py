"""Images as sequences: patches, and learned positions carried over to another grid."""

import math

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float


def check_images(
    images: Float[Array, "batch height width channels"],
    patch: tuple[int, int],
    channels: int,
    own_size: tuple[int, int] | None = None,
) -> None:
    """Refuses images that a model can't mean.

    Args:
        images: normalised pixels, channels last.
        patch: height and width of a patch.
        channels: channels that the model reads.
        own_size: height and width that the model was made for, which need be no multiple of the
            patch.

    Raises:
        ValueError: a wrong number of channels, a side that is no multiple of the patch, or (where
            the values are known) pixels that were not normalised.
    """
    _, height, width, given = images.shape
    if given != channels:
        hint = ": put the channels last" if images.shape[1] == channels else ""
        raise ValueError(f"images of shape {images.shape}: {channels} channels needed{hint}")
    if (height, width) != own_size and (height % patch[0] or width % patch[1]):
        raise ValueError(
            f"images of {height} x {width} pixels can't be cut into patches of {patch[0]} x "
            f"{patch[1]}: crop or resize them"
        )
    if isinstance(images, Tracer) or not getattr(images, "is_fully_addressable", True):
        return
    largest = float(np.abs(np.asarray(images, np.float32)).max(initial=0.0))
    if not largest < 50:  # normalised pixels stay within about 3; NaN fails too
        raise ValueError(
            f"pixels reach {largest:g}: scale and normalise them as the checkpoint's preprocessor "
            "does (Encoder.preprocess)"
        )


def cut_patches(
    images: Float[Array, "batch height width channels"], patch: tuple[int, int]
) -> Float[Array, "batch patches values"]:
    """Non-overlapping patches in reading order, each flattened as (row, column, channel).

    Pixels below and right of the last whole patch are left out, as a convolution does it.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch[0], width // patch[1]
    x = images[:, : rows * patch[0], : columns * patch[1]]
    x = x.reshape(batch, rows, patch[0], columns, patch[1], channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


def resize_positions(
    positions: Float[Array, "old d"],
    old: tuple[int, int],
    new: tuple[int, int],
    *,
    antialias: bool,
) -> Float[Array, "new d"]:
    """Bicubic interpolation of a grid of positions, as torch's `interpolate` does it.

    `jax.image.resize` uses another cubic kernel, so the two small matrices are made here.

    Args:
        positions: one row per cell of the old grid, in reading order.
        old: rows and columns of the old grid.
        new: rows and columns of the new grid.
        antialias: widen the kernel when shrinking (and use its sharper form), as with torch's
            `antialias=True`.

    Returns:
        One row per cell of the new grid, computed in float32.
    """
    if old == new:
        return positions
    weights = _antialiased if antialias else _interpolating
    rows, columns = (jnp.asarray(weights(o, n)) for o, n in zip(old, new, strict=True))
    grid = positions.astype(jnp.float32).reshape(*old, -1)
    grid = jnp.einsum("ia,jb,abd->ijd", rows, columns, grid, precision="highest")
    return grid.reshape(new[0] * new[1], -1).astype(positions.dtype)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _interpolating(old: int, new: int) -> np.ndarray:
    """`(new, old)` weights with a = -0.75; positions beyond the border repeat it."""
    matrix = np.zeros((new, old), np.float32)
    for i in range(new):
        center = (i + 0.5) * old / new - 0.5
        first = math.floor(center) - 1
        for j, weight in enumerate(_cubic(np.arange(4) + first - center, -0.75)):
            matrix[i, min(max(first + j, 0), old - 1)] += weight
    return matrix


def _antialiased(old: int, new: int) -> np.ndarray:
    """`(new, old)` weights with a = -0.5, the kernel stretched by the shrinkage; rows sum to 1."""
    scale = old / new
    stretch = max(scale, 1.0)
    matrix = np.zeros((new, old), np.float64)
    for i in range(new):
        center = scale * (i + 0.5)
        first = max(int(center - 2 * stretch + 0.5), 0)
        last = min(int(center + 2 * stretch + 0.5), old)
        taps = np.arange(first, last)
        matrix[i, first:last] = _cubic((taps - center + 0.5) / stretch, -0.5)
    return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)
