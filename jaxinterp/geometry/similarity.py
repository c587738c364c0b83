"""How alike two representations of the same inputs are: one number for two sets of points.

None of them changes when either set is turned, reflected, moved (but for relative representations)
or scaled as a whole. Points are rows, the same input in the same row of both.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def linear_cka(x: Float[Array, "n d"], y: Float[Array, "n e"]) -> Float[Array, ""]:
    r"""Linear centred kernel alignment.

    $\lVert Y^\top X \rVert_F^2 / (\lVert X^\top X \rVert_F \lVert Y^\top Y \rVert_F)$ of centred
    columns. It weighs directions by their variance squared, and is biased towards 1 where n is not
    much larger than the dimensions: independent points give about $\sqrt{d e}/n$ and more.

    Args:
        x: representations of n inputs.
        y: other representations of the same inputs.

    Returns:
        Between 0 and 1; NaN where one of them is constant.

    Reference:
        Kornblith et al. (2019), "Similarity of neural network representations revisited",
        arXiv 1905.00414, section 3.
    """
    x, y = _scaled(x), _scaled(y)
    return _energy(x, y) / jnp.sqrt(_energy(x, x) * _energy(y, y))


def svcca(
    x: Float[Array, "n d"], y: Float[Array, "n e"], *, explained: float = 0.99
) -> Float[Array, ""]:
    r"""Mean canonical correlation of the leading principal components of each.

    Components that explain the given share of the variance are kept; the mean is over as many
    correlations as the smaller set has components. Cost: two singular value decompositions of
    (n, d), one of (d, e).

    Args:
        x: representations of n inputs.
        y: other representations of the same inputs.
        explained: share of the variance that the kept components have.

    Returns:
        Between 0 and 1; NaN where one of them is constant.

    Raises:
        ValueError: a share outside 0 .. 1.

    Reference:
        Raghu et al. (2017), "SVCCA: singular vector canonical correlation analysis", arXiv
        1706.05806, section 2.
    """
    if not 0 < explained <= 1:
        raise ValueError(f"{explained=} must be a share of the variance, above 0 and at most 1")
    (left, kept), (right, also) = _leading(_scaled(x), explained), _leading(_scaled(y), explained)
    product = jnp.matmul(left.T, right, precision="highest")
    correlations = jnp.minimum(jnp.linalg.svd(product, compute_uv=False), 1.0)
    return correlations.sum() / jnp.minimum(kept, also)


def relative_representation(
    points: Float[Array, "n d"], anchors: Float[Array, "m d"]
) -> Float[Array, "n m"]:
    r"""Each point by its cosines to anchors.

    $r_{ij} = \langle x_i, a_j \rangle / (\lVert x_i \rVert \lVert a_j \rVert)$.

    Two models whose representations differ by a rotation and a scale give the same one if their
    anchors represent the same inputs. Not centred: centre both first where the mean says nothing.

    Args:
        points: representations of n inputs.
        anchors: representations of m inputs by the same model.

    Returns:
        Cosines; 0 for a point or anchor of zeros.

    Reference:
        Moschella et al. (2023), "Relative representations enable zero-shot latent space
        communication", arXiv 2209.15430, section 3.
    """
    return jnp.matmul(_unit(points), _unit(anchors).T, precision="highest")


def relative_agreement(x: Float[Array, "n m"], y: Float[Array, "n m"]) -> Float[Array, ""]:
    """Mean cosine between two relative representations of the same inputs, row by row."""
    return (_unit(x) * _unit(y)).sum(1).mean()


def _scaled(x: Array) -> Array:
    """Centred, and of order one, so that no square leaves the range of float32."""
    x = x - x.mean(0, keepdims=True)
    largest = jnp.abs(x).max()
    return x / jnp.where(largest > 0, largest, 1.0)


def _energy(x: Array, y: Array) -> Array:
    return jnp.square(jnp.matmul(x.T, y, precision="highest")).sum()


def _leading(x: Array, explained: float) -> tuple[Array, Array]:
    """Left singular vectors that explain a share of the variance, zeros after them, and how many.

    Directions of rounding only (a singular value below 1e-6 of the largest) are never kept.
    """
    left, sizes, _ = jnp.linalg.svd(x, full_matrices=False)
    share = jnp.cumsum(jnp.square(sizes)) / jnp.square(sizes).sum()
    before = jnp.concatenate([jnp.zeros(1, share.dtype), share[:-1]])
    kept = (before < explained) & (sizes > 1e-6 * sizes[0])
    count = jnp.where(sizes[0] > 0, kept.sum(), jnp.nan)
    return left * kept[None].astype(left.dtype), count


def _unit(rows: Array) -> Array:
    norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows / jnp.where(norms > 0, norms, 1.0)
